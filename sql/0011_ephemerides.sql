-- Orbits of known Solar-System objects: every set that was offered, and the nights that were prepared from them.

create table ephemeris_sets (
    set_id     bigint generated always as identity primary key,
    kind       text not null check (kind in ('mpcorb', 'comets', 'obscodes')),
    state      text not null check (state in ('good', 'refused', 'withdrawn')),
    reason     text,
    source     text not null,
    sha256     text,
    bytes      bigint,
    records    integer not null default 0,
    bad_lines  integer not null default 0,
    data_date  date,
    path       text,
    figures    jsonb not null default '{}',
    run_id     text,
    fetched    timestamptz not null default now(),
    checked    timestamptz not null default now(),
    check (state <> 'good' or (sha256 is not null and path is not null))
);
comment on table ephemeris_sets is 'Every set of orbits or observatories that was offered: in use is the newest good one of its kind.';
comment on column ephemeris_sets.state is 'good: accepted; refused: failed a check, or could not be had; withdrawn: rolled back by an operator.';
comment on column ephemeris_sets.sha256 is 'Of the content as fetched, before unpacking.';
comment on column ephemeris_sets.data_date is 'Night of the newest observation in it; of a set without: when it was fetched.';
comment on column ephemeris_sets.path is 'File in the archive; null once an old one was removed, or if nothing was kept.';
comment on column ephemeris_sets.checked is 'When the source last offered this very content.';
create index ephemeris_sets_newest on ephemeris_sets (kind, set_id desc) where state = 'good';
create index ephemeris_sets_content on ephemeris_sets (kind, sha256);

create table ephemeris_nights (
    nid         integer primary key,
    mpcorb_id   bigint references ephemeris_sets,
    comets_id   bigint references ephemeris_sets,
    obscodes_id bigint references ephemeris_sets,
    path        text,
    objects     integer not null,
    data_date   date,
    cpu_s       real,
    made        timestamptz not null default now()
);
comment on table ephemeris_nights is 'Orbits carried to a night, sorted by place; path is null once the file was removed.';
comment on column ephemeris_nights.data_date is 'Of the set of asteroids that it was made from: what its age is counted from.';

grant update (state, reason) on ephemeris_sets to ztf_operator;
