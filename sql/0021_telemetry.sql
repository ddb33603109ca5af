-- Telemetry of telescope, dome and weather: named quantities with units and limits, files with states, readings, and the join to exposures.

create table telemetry_quantities (
    quantity_id smallint generated always as identity primary key,
    name        text not null unique check (name ~ '^[a-z][a-z0-9_]*$'),
    unit        text not null,
    words       text not null,
    low         double precision,
    high        double precision,
    tolerance_s real not null default 120 check (tolerance_s > 0),
    check (low is null or high is null or low < high)
);
comment on table telemetry_quantities is 'What the mountain measures beside exposures. A reading of another name is left out and counted.';
comment on column telemetry_quantities.unit is 'Unit of the values here (astropy spelling); readings in another unit of the same kind are converted.';
comment on column telemetry_quantities.low is 'A reading below departs; null: no limit. Operators may change it.';
comment on column telemetry_quantities.high is 'A reading above departs; null: no limit. Operators may change it.';
comment on column telemetry_quantities.tolerance_s is 'A reading belongs to an exposure if it is at most so far from its middle, s.';

insert into telemetry_quantities (name, unit, words, low, high) values
    ('outside_temperature', 'deg_C', 'air outside of the dome', -15, 35),
    ('dome_temperature', 'deg_C', 'air in the dome', -15, 35),
    ('mirror_temperature', 'deg_C', 'primary mirror', -15, 35),
    ('humidity', '%', 'relative humidity outside', 0, 85),
    ('dew_point', 'deg_C', 'dew point outside', null, null),
    ('pressure', 'hPa', 'air pressure', 780, 860),
    ('wind_speed', 'm / s', 'wind outside', 0, 15),
    ('wind_direction', 'deg', 'where the wind comes from, from north by east', 0, 360),
    ('focus_position', 'mm', 'hexapod, Z axis', 0, 3),
    ('detector_temperature', 'K', 'focal plane', 160, 175),
    ('dome_azimuth', 'deg', 'dome slit, from north by east', 0, 360),
    ('guider_error', 'arcsec', 'rms of the guider', 0, 1.5);

create table telemetry_files (
    file_id    integer generated always as identity primary key,
    filename   text not null unique,
    nid        integer not null references nights,
    state      text not null check (state in ('ingested', 'late', 'truncated', 'mislabelled', 'unreadable', 'missing')),
    error_code text,
    reason     text,
    readings   integer not null default 0,
    left_out   integer not null default 0,
    first      timestamptz,
    last       timestamptz,
    bytes      bigint,
    sha256     text,
    path       text,
    arrival    timestamptz,
    ingested   timestamptz,
    run_id     text
);
comment on table telemetry_files is 'One row per file of telemetry, in exactly one named state; second copies are in receipts (duplicate).';
comment on column telemetry_files.state is 'late: ingested, but it came after the manifest of its night. truncated, mislabelled, unreadable: in quarantine.';
comment on column telemetry_files.left_out is 'Readings that were not taken over: unknown quantity, or no finite value; the reason says which.';
create index telemetry_files_nid on telemetry_files (nid);

create table telemetry (
    quantity_id smallint not null references telemetry_quantities,
    time        timestamptz not null,
    value       double precision not null,
    file_id     integer not null references telemetry_files,
    primary key (quantity_id, time)
);
comment on table telemetry is 'Readings; the first of a quantity and time counts.';
create index telemetry_time on telemetry using brin (time);

create view exposure_telemetry as
select e.exposure, e.nid, q.name, q.unit, t.value, t.time,
       extract(epoch from t.time - m.middle)::real as offset_s,
       coalesce(t.value < q.low, false) or coalesce(t.value > q.high, false) as departs
  from exposures e
 cross join lateral (
        select to_timestamp((e.obsjd - 2440587.5) * 86400.0 + coalesce(e.exptime, 0) / 2) as middle) m
 cross join telemetry_quantities q
 cross join lateral (
        select n.value, n.time from (
            (select a.value, a.time from telemetry a
              where a.quantity_id = q.quantity_id and a.time <= m.middle
                and a.time >= m.middle - make_interval(secs => q.tolerance_s)
              order by a.time desc limit 1)
            union all
            (select b.value, b.time from telemetry b
              where b.quantity_id = q.quantity_id and b.time > m.middle
                and b.time <= m.middle + make_interval(secs => q.tolerance_s)
              order by b.time limit 1)) n
         order by abs(extract(epoch from n.time - m.middle)) limit 1) t
 where e.imgtype = 'o';
comment on view exposure_telemetry is 'For each exposure of the sky the reading of every quantity that is nearest to its middle, within the tolerance.';

grant update (low, high, tolerance_s) on telemetry_quantities to ztf_operator, ztf_pipeline;
revoke insert on telemetry_quantities from ztf_pipeline;
