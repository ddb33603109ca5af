"""Who sees what: whatever the programs and dates of the past, a packet holds nothing that its audience may not see."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_alert_packets import facts, row

from ztfds.alerts.history import select_history
from ztfds.alerts.packet import build_packet
from ztfds.config.alerts import AlertConfig, ForcedConfig
from ztfds.difference.candidates import blank_table
from ztfds.formats.alerts import read_packets
from ztfds.operations import alerting
from ztfds.operations.forced import _epochs
from ztfds.survey import ids
from ztfds.survey.programs import by_id

JD, RA, DEC = 2458559.807662, 157.1, 40.2
CONFIG = AlertConfig(forced=ForcedConfig(max_epochs=10_000))
SETTINGS = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


@st.composite
def pasts(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Images before and after the present, of any program, some with a detection nearby, some released."""
    days = draw(st.lists(st.floats(-2.0, 65.0), max_size=12, unique_by=lambda d: round(d, 4)))
    images = []
    for k, day in enumerate(days):
        jd = JD - day
        images.append(
            {
                "jd": jd, "pid": ids.pid(jd, k), "rcid": k, "fid": 1 + k % 3, "field": 712, "nid": ids.nid(jd),
                "programid": draw(st.sampled_from([0, 1, 2, 3])), "released": draw(st.booleans()), "status": 1,
                "diffmaglim": 20.5, "rbversion": "x", "reference_id": None,
                "seen": draw(st.sampled_from([None, 0.0, 1.4, 1.6])),
            }
        )  # fmt: skip
    return images


def detections(images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The detections in images: `seen` arcsec off the position."""
    found = []
    for image in images:
        if image["seen"] is not None:
            place = {"ra": RA, "dec": DEC + image["seen"] / 3600, "magpsf": 18.5, "sigmapsf": 0.1, "isdiffpos": "t"}
            found.append({**image, **place, "candid": ids.candid(image["pid"], True, 1)})
    return found


def allowed(program: int, image: dict[str, Any]) -> bool:
    """The rule in other words than the code's: released, or of a program whose data the audience owns."""
    return image["released"] or image["programid"] in {0: (0, 1, 2, 3), 1: (1,), 2: (1, 2), 3: (1, 2, 3)}[program]


@SETTINGS
@given(pasts(), st.sampled_from([0, 1, 2, 3]))
def test_packets_hold_what_their_audience_may_see_and_all_of_it(images: list[dict[str, Any]], program: int) -> None:
    history = select_history(detections(images), images, ra=RA, dec=DEC, jd=JD, programid=program)
    forced = [{**image, "rfid": 1, "procstatus": "0", "forcediffimflux": 1.0} for image in images]
    packet = build_packet(
        row(np.random.default_rng(1)), facts(programid=program), objectid="ZTF19aaaaaaa", prv_candidates=history,
        fp_hists=forced, cutouts=None, config=CONFIG,
    )  # fmt: skip
    (alert,) = read_packets(packet.content)
    by_pid = {image["pid"]: image for image in images}
    for record in (*alert["prv_candidates"], *alert["fp_hists"]):
        image = by_pid[record["pid"]]
        assert record["programid"] == image["programid"] and allowed(program, image)
    recent = {pid for pid, image in by_pid.items() if JD - 30 <= image["jd"] < JD and allowed(program, image)}
    assert {record["pid"] for record in alert["prv_candidates"]} == recent
    near = {pid for pid in recent if by_pid[pid]["seen"] in (0.0, 1.4)}
    assert {record["pid"] for record in alert["prv_candidates"] if record["candid"] is not None} == near
    assert packet.topic == f"ztf_20190317_programid{program}"
    if program == 1:
        private = {image["pid"] for image in images if image["programid"] != 1 and not image["released"]}
        assert not private & {record["pid"] for record in (*alert["prv_candidates"], *alert["fp_hists"])}
        text = packet.content
        assert not any(str(pid).encode() in text for pid in private)


@SETTINGS
@given(pasts(), st.sampled_from([0, 1, 2, 3]))
def test_forced_photometry_opens_only_what_the_audience_may_see(images: list[dict[str, Any]], program: int) -> None:
    table = blank_table(2)
    table["jd"], table["programid"] = JD, program
    made: Any = type("Made", (), {"candidates": table})
    opened = _epochs(made, [0, 1], [images, images[:3]], CONFIG.forced)
    wanted = [i["pid"] for i in images if JD - 30 <= i["jd"] < JD and allowed(program, i)]
    assert sorted(image["pid"] for image, _ in opened) == sorted(wanted)
    assert [image["jd"] for image, _ in opened] == sorted(image["jd"] for image, _ in opened)
    for image, rows in opened:
        assert rows == ([0, 1] if image in images[:3] else [0])


@SETTINGS
@given(pasts(), st.sampled_from([1, 2, 3]))
def test_the_whole_way_from_past_to_packet_keeps_the_rule(images: list[dict[str, Any]], program: int) -> None:
    """The path of operations: past, facts, forced rows of everything (as if its filter had failed), packet."""
    table = blank_table(1)
    known = {**row(np.random.default_rng(1)), **facts(programid=program)}
    for name in table.dtype.names or ():
        if name in known:
            table[name] = known[name]
    table["flux"], table["fluxunc"] = 100.0, 1.0
    stamps = (np.zeros((63, 63), np.float32),) * 3
    made: Any = type("Made", (), {"candidates": table, "cutouts": {3: stamps}})
    past = alerting.Past([detections(images)], [images], [(0, None)], np.zeros(1, int), [])
    fact = [{**facts(programid=program), **alerting.facts(made, past, "x.fits.fz", CONFIG)[0]}]
    forced = {0: [{**image, "rfid": 1, "procstatus": "0"} for image in images]}
    (packet,) = alerting.prepare(made, fact, past, [0], forced, CONFIG).values()
    (alert,) = read_packets(packet.encoded.named("ZTF19aaaaaab"))
    assert alert["objectId"] == "ZTF19aaaaaab"
    rows = [*(alert["prv_candidates"] or []), *(alert["fp_hists"] or [])]
    by_pid = {image["pid"]: image for image in images}
    assert all(allowed(program, by_pid[record["pid"]]) for record in rows)


def test_the_rule_itself_is_the_surveys() -> None:
    assert {p: sorted(by_id(p).sees) for p in (1, 2, 3)} == {1: [1], 2: [1, 2], 3: [1, 2, 3]}
