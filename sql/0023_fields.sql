-- Fields off the grid: known only after their calibrator catalogs have been prepared.

create table prepared_fields (
    field      integer primary key check (field between 2000 and 9999),
    ra         double precision not null check (ra >= 0 and ra < 360),
    dec        double precision not null check (dec between -90 and 90),
    words      text not null,
    gaia_least integer not null,
    ps1_least  integer not null,
    catalogs   jsonb not null,
    author     text not null check (author <> ''),
    prepared   timestamptz not null default now()
);
comment on table prepared_fields is 'Fields that are not on the grid and may be processed all the same.';
comment on column prepared_fields.gaia_least is 'Gaia stars in the quadrant that has fewest, when it was prepared; ps1_least the same for PS1.';
comment on column prepared_fields.catalogs is 'Tables that the preparation added to the folder of static catalogs: name, rows, sha256.';

-- Source matching: which field, channel and filter is due.

create table matching_queue (
    field   integer not null,
    rcid    smallint not null,
    fid     smallint not null,
    epochs  integer not null,
    matched integer not null default 0,
    first   double precision not null,
    last    double precision not null,
    queued  timestamptz,
    counted timestamptz not null default now(),
    primary key (field, rcid, fid)
);
comment on table matching_queue is 'Usable epochs of each field, readout channel and filter, how many of them were matched, and since when it is due (null: it is not).';
comment on column matching_queue.matched is 'Epochs at the last matching; the matching sets it, and queued to null.';
comment on column matching_queue.first is 'Julian date of the first usable epoch; last: of the last.';
create index matching_due on matching_queue (queued) where queued is not null;
