// The interactive map of the page Coverage: fields on the whole sky, Mollweide as in the pictures (north up, east left, 12 h in the middle).
"use strict";
(() => {
  const box = document.getElementById("sky"), canvas = box.querySelector("canvas"), said = box.querySelector("output");
  const chosen = Object.fromEntries([...box.querySelectorAll("select")].map((s) => [s.name, s]));
  const pen = canvas.getContext("2d"), RAD = Math.PI / 180;
  const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];
  const view = { x: 0, y: 0, zoom: 1 };
  let data = { fields: [], outline: [], filters: {} }, shown = [], current = null, range = [1, 1];

  // -- where things are -----------------------------------------------------------------------------------------------
  const wrap = (degrees) => degrees - 360 * Math.round(degrees / 360);
  function project(lon, lat) {            // deg, lon = 180 - ra; x in -2..2, y in -1..1
    let t = Math.asin(2 * lat / 180);
    for (let k = 0; k < 12; k++) {
      const step = (2 * t + Math.sin(2 * t) - Math.PI * Math.sin(lat * RAD)) / Math.max(4 * Math.cos(t) ** 2, 1e-6);
      t -= step;
      if (Math.abs(step) < 1e-7) break;
    }
    return [lon / 90 * Math.cos(t), Math.sin(t)];
  }
  function unproject(x, y) {              // ra, dec in deg; null off the sky
    if (x * x / 4 + y * y >= 1) return null;
    const t = Math.asin(y), lat = Math.asin((2 * t + Math.sin(2 * t)) / Math.PI) / RAD, lon = 90 * x / Math.cos(t);
    return Math.abs(lon) > 180 ? null : [(540 - lon) % 360, lat];
  }
  function around(field, xi, eta) {       // a point of the tangent plane of a field (deg): longitude from its centre, latitude
    const d = field.dec * RAD, x = xi * RAD, y = eta * RAD, down = Math.cos(d) - y * Math.sin(d);
    return [-Math.atan2(x, down) / RAD, Math.atan2(Math.sin(d) + y * Math.cos(d), Math.hypot(x, down)) / RAD];
  }
  function plane(field, ra, dec) {        // the inverse; null behind
    const d0 = field.dec * RAD, d = dec * RAD, a = (ra - field.ra) * RAD;
    const down = Math.sin(d0) * Math.sin(d) + Math.cos(d0) * Math.cos(d) * Math.cos(a);
    if (down <= 0.1) return null;
    return [Math.cos(d) * Math.sin(a) / down / RAD, (Math.cos(d0) * Math.sin(d) - Math.sin(d0) * Math.cos(d) * Math.cos(a)) / down / RAD];
  }
  const unit = () => canvas.clientWidth / 4.1 * view.zoom;
  const screen = ([x, y]) => [canvas.clientWidth / 2 + (x - view.x) * unit(), canvas.clientHeight / 2 - (y - view.y) * unit()];
  const sky = (px, py) => [(px - canvas.clientWidth / 2) / unit() + view.x, view.y - (py - canvas.clientHeight / 2) / unit()];

  function shape(field) {                 // the outline on the map, once
    const centre = wrap(180 - field.ra), box = bounds(data.outline);
    const pole = plane(field, field.ra, field.dec < 0 ? -90 : 90);
    let points = data.outline.map(([xi, eta]) => around(field, xi, eta));
    if (pole && Math.abs(pole[0]) < box[0] && Math.abs(pole[1]) < box[1]) {
      points = points.map(([l, b]) => [wrap(l + centre) - centre, b]).sort((p, q) => p[0] - q[0]);
      const end = field.dec < 0 ? -90 : 90;
      points = [[-180 - centre, end], [-180 - centre, points[0][1]], ...points, [180 - centre, points.at(-1)[1]], [180 - centre, end]];
    }
    field.turned = points.some(([l]) => Math.abs(l + centre) > 180) ? [0, Math.sign(centre) * -360] : [0];
    field.path = field.turned.map((turn) => points.map(([l, b]) => project(centre + l + turn, b)));
    field.at = project(centre, field.dec);
  }
  const bounds = (outline) => [Math.max(...outline.map((p) => Math.abs(p[0]))), Math.max(...outline.map((p) => Math.abs(p[1])))];

  // -- what is shown --------------------------------------------------------------------------------------------------
  function sums(field) {                  // over the chosen filters and programs; null without a visit
    const fid = chosen.filter.value, program = chosen.program.value;
    const rows = field.visits.filter((v) => (fid === "" || v[0] === +fid) && (program === "" || v[1] === +program));
    if (!rows.length) return null;
    const known = rows.filter((v) => v[4] !== null), n = known.reduce((s, v) => s + v[2], 0);
    return {
      field, rows, visits: rows.reduce((s, v) => s + v[2], 0), last: Math.max(...rows.map((v) => v[5])),
      depth: n ? known.reduce((s, v) => s + v[4] * v[2], 0) / n : NaN,
    };
  }
  function choose() {
    const grid = chosen.grid.value;
    shown = data.fields.filter((f) => grid === "" || (grid === "0") === (f.field < 1000)).map(sums).filter(Boolean);
    shown.sort((a, b) => a.field.ra - b.field.ra);
    const values = shown.map(value).filter(Number.isFinite);
    range = values.length ? [Math.min(...values), Math.max(...values)] : [1, 1];
    box.querySelector("[data-low]").textContent = words(range[0]);
    box.querySelector("[data-high]").textContent = words(range[1]);
    if (current && !shown.some((s) => s.field === current.field)) current = null;
    canvas.dataset.fields = shown.length;
    draw();
    tell();
  }
  const value = (s) => (chosen.colour.value === "depth" ? s.depth : s.visits);
  const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
  const words = (v) => (chosen.colour.value === "depth" ? `${v.toFixed(2)} mag` : count(v, "visit"));
  function colour(v) {
    if (!Number.isFinite(v)) return "#8888";
    const [low, high] = range, scale = chosen.colour.value === "depth" ? (u) => u : Math.log;
    const at = high > low ? 4 * (scale(v) - scale(low)) / (scale(high) - scale(low)) : 2, k = Math.min(3, Math.floor(at));
    return `rgb(${RAMP[k].map((c, i) => Math.round(c + (RAMP[k + 1][i] - c) * (at - k))).join()})`;
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1, style = getComputedStyle(document.documentElement);
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const [x0, y0] = screen([0, 0]);
    pen.save();
    pen.beginPath();
    pen.ellipse(x0, y0, 2 * unit(), unit(), 0, 0, 2 * Math.PI);
    pen.fillStyle = style.getPropertyValue("--panel");
    pen.fill();
    pen.clip();
    pen.globalAlpha = 0.85;
    for (const s of shown) { pen.fillStyle = colour(value(s)); trace(s.field, "fill"); }
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--soft");
    pen.lineWidth = 0.4;
    for (let ra = 0; ra < 360; ra += 30) curve([...Array(61).keys()].map((k) => project(wrap(180 - ra), 3 * k - 90)));
    for (let dec = -60; dec <= 60; dec += 30) curve([...Array(73).keys()].map((k) => project(5 * k - 180, dec)));
    if (current) { pen.strokeStyle = style.getPropertyValue("--bad"); pen.lineWidth = 2.5; trace(current.field, "stroke"); }
    pen.restore();
    const label = (text, place) => { pen.strokeText(text, ...screen(place)); pen.fillText(text, ...screen(place)); };
    pen.fillStyle = style.getPropertyValue("--ink");
    pen.strokeStyle = style.getPropertyValue("--paper");
    pen.lineWidth = 3;
    pen.font = "11px system-ui, sans-serif";
    for (let hour = 2; hour < 24; hour += 4) label(`${hour}h`, project(wrap(180 - 15 * hour), 1));
    for (let dec = -60; dec <= 60; dec += 30) label(`${dec}°`, project(0, dec));
  }
  function trace(field, how) {
    for (const path of field.path) {
      const [px, py] = screen(field.at);
      pen.beginPath();
      if (data.size * unit() < 2) pen.arc(px, py, 3, 0, 2 * Math.PI);  // a small camera: a dot
      else path.forEach((p, k) => pen[k ? "lineTo" : "moveTo"](...screen(p)));
      pen.closePath();
      pen[how]();
    }
  }
  function curve(points) {
    pen.beginPath();
    points.forEach((p, k) => pen[k ? "lineTo" : "moveTo"](...screen(p)));
    pen.stroke();
  }

  function tell() {
    said.replaceChildren();
    if (!current) { said.textContent = `${shown.length} fields; point at one, or press n for the next.`; return; }
    const { field, rows } = current, link = document.createElement("a");
    link.href = `${box.dataset.root}/field/${field.field}`;
    link.textContent = `Field ${field.field}`;
    said.append(link, ` (${field.ra.toFixed(2)}°, ${field.dec.toFixed(2)}°): ${count(current.visits, "visit")}, last ${time(current.last)}`);
    for (const [fid, program, visits, usable, depth, last] of rows) {
      said.append(document.createElement("br"), `${data.filters[fid]}, program ${program}: ${count(visits, "visit")}, ${count(usable, "usable image")}, `
        + `depth ${depth === null ? "unknown" : depth.toFixed(2) + " mag"}, last ${time(last)}`);
    }
  }
  const time = (jd) => new Date((jd - 2440587.5) * 86400e3).toISOString().slice(0, 16).replace("T", " ");

  // -- hands ----------------------------------------------------------------------------------------------------------
  function nearest(px, py) {
    const at = unproject(...sky(px, py)), half = bounds(data.outline);
    let best = null, least = Infinity;
    for (const s of shown) {
      const inside = at && plane(s.field, ...at), [x, y] = screen(s.field.at), pixels = Math.hypot(x - px, y - py);
      const hit = pixels < 8 || (inside && Math.abs(inside[0]) <= half[0] && Math.abs(inside[1]) <= half[1]);
      const far = inside ? Math.hypot(...inside) : pixels;
      if (hit && far < least) { best = s; least = far; }
    }
    return best;
  }
  function select(found) { current = found; draw(); tell(); }
  function zoom(factor, px = canvas.clientWidth / 2, py = canvas.clientHeight / 2) {
    const [x, y] = sky(px, py);
    view.zoom = Math.min(400, Math.max(1, view.zoom * factor));
    const [nx, ny] = sky(px, py);
    pan(x - nx, y - ny);
  }
  function pan(dx, dy) {
    view.x = Math.min(2, Math.max(-2, view.x + dx));
    view.y = Math.min(1, Math.max(-1, view.y + dy));
    if (view.zoom === 1) view.x = view.y = 0;
    draw();
  }
  const touches = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (e) => { canvas.setPointerCapture(e.pointerId); touches.set(e.pointerId, e); moved = 0; });
  canvas.addEventListener("pointermove", (e) => {
    const before = touches.get(e.pointerId);
    if (!before) { if (e.pointerType === "mouse") select(nearest(e.offsetX, e.offsetY)); return; }
    moved += Math.hypot(e.offsetX - before.offsetX, e.offsetY - before.offsetY);
    if (touches.size === 2) {
      const other = [...touches.values()].find((t) => t.pointerId !== e.pointerId), far = (t) => Math.hypot(t.offsetX - other.offsetX, t.offsetY - other.offsetY);
      zoom(far(e) / Math.max(1, far(before)), (e.offsetX + other.offsetX) / 2, (e.offsetY + other.offsetY) / 2);
    } else pan(-(e.offsetX - before.offsetX) / unit(), (e.offsetY - before.offsetY) / unit());
    touches.set(e.pointerId, e);
  });
  canvas.addEventListener("pointerup", (e) => {
    touches.delete(e.pointerId);
    if (moved < 6) select(nearest(e.offsetX, e.offsetY));
  });
  canvas.addEventListener("pointercancel", (e) => touches.delete(e.pointerId));
  canvas.addEventListener("wheel", (e) => { e.preventDefault(); zoom(Math.exp(-e.deltaY / 400), e.offsetX, e.offsetY); }, { passive: false });
  const step = (by) => { if (shown.length) select(shown[(shown.indexOf(current) + by + shown.length + (current || by > 0 ? 0 : 1)) % shown.length]); };
  const KEYS = {
    ArrowLeft: () => pan(-0.2 / view.zoom, 0), ArrowRight: () => pan(0.2 / view.zoom, 0), ArrowUp: () => pan(0, 0.2 / view.zoom),
    ArrowDown: () => pan(0, -0.2 / view.zoom), "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), "0": () => zoom(1e-9),
    n: () => step(1), p: () => step(-1), Enter: () => current && said.querySelector("a").click(),
  };
  canvas.addEventListener("keydown", (e) => { if (KEYS[e.key] && !e.ctrlKey && !e.metaKey) { e.preventDefault(); KEYS[e.key](); } });
  for (const button of box.querySelectorAll("button[data-key]")) button.addEventListener("click", () => KEYS[button.dataset.key]());
  for (const name of ["filter", "program", "grid", "colour"]) chosen[name].addEventListener("change", choose);
  chosen.nights.addEventListener("change", load);
  window.addEventListener("resize", draw);

  async function load() {
    const night = chosen.nights.value ? `?nid=${chosen.nights.value}` : "";
    const answer = await fetch(`${box.dataset.root}/coverage/fields.json${night}`);
    if (!answer.ok) { said.textContent = `The fields cannot be had: ${await answer.text()}`; return; }
    data = await answer.json();
    data.size = bounds(data.outline)[1] / 90;
    data.fields.forEach(shape);
    current = null;
    canvas.dataset.loaded = chosen.nights.value || "all";
    choose();
  }
  box.hidden = false;
  load();
})();
