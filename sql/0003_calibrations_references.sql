-- Calibration images with their validity, reference images with their members.

create table calibrations (
    calibration_id bigint generated always as identity primary key,
    calid         bigint not null,
    caltype       text not null check (caltype in ('bias', 'hifreqflat')),
    nid           integer not null references nights,
    ccdid         smallint not null,
    rcid          smallint not null,
    fid           smallint not null default 0,
    valid_from_jd double precision not null,
    valid_to_jd   double precision,
    provenance_id text not null unique,
    data_id       bigint not null references products,
    unc_id        bigint references products,
    cmask_id      bigint references products,
    accepted      boolean not null,
    reason        text,
    nframes       smallint not null,
    created       timestamptz not null default now()
);
comment on column calibrations.calid is 'Number in names and headers: night, readout channel, sequence; versions share it.';
comment on column calibrations.fid is 'Filter id; 0 for a bias.';
comment on column calibrations.valid_from_jd is 'Start of the night it was made for; valid until a later accepted one takes over.';
comment on column calibrations.accepted is 'False when the comparison with the last good one refused it.';
create index calibrations_lookup on calibrations (caltype, rcid, fid, valid_from_jd desc) where accepted;

create table references_ (
    reference_id  bigint generated always as identity primary key,
    rfid          bigint not null,
    field         integer not null,
    rcid          smallint not null,
    fid           smallint not null,
    version       smallint not null,
    vbest         smallint not null default 1 check (vbest in (0, 1, 2)),
    status        smallint not null,
    reason        text,
    infobits      bigint not null default 0,
    nframes       smallint not null,
    jdstart       double precision not null,
    jdend         double precision not null,
    magzp         real,
    maglimit      real,
    provenance_id text not null unique,
    product_id    bigint references products,
    regenerate    boolean not null default false,
    created       timestamptz not null default now(),
    unique (rfid, version)
);
comment on column references_.status is '1 usable for differencing, 0 not.';
comment on column references_.regenerate is 'True when it waits to be made anew (failed, or its differences are persistently bad).';
create unique index references_best on references_ (field, rcid, fid) where vbest > 0;

create table reference_tries (
    field      integer not null,
    rcid       smallint not null,
    fid        smallint not null,
    inputs     integer not null,
    last_input bigint not null,
    reason     text,
    tried      timestamptz not null default now(),
    primary key (field, rcid, fid)
);
comment on table reference_tries is 'The last attempt at each reference: from how many images, and the highest product_id of them; the same images are not tried again.';

create table reference_members (
    reference_id bigint not null references references_ on delete cascade,
    product_id   bigint not null references products,
    exposure     text,
    primary key (reference_id, product_id)
);
