-- Nights, exposures, the files that arrive, and the manifests that say which should have arrived.

create schema if not exists ztf;

do $$ begin
    execute format('alter database %I set search_path = ztf, public', current_database());
    execute format('alter database %I set timezone = ''UTC''', current_database());
end $$;
set search_path = ztf, public;

create table nights (
    nid        integer primary key,
    nightdate  date not null unique,
    state      text not null default 'open' check (state in ('open', 'closing', 'closed')),
    opened     timestamptz not null default now(),
    closed     timestamptz,
    summary    jsonb
);
comment on table nights is 'One row per night; nid = whole days since 2017-01-01 UT.';

create table exposures (
    exposure    text primary key check (exposure ~ '^ztf_[0-9]{14}$'),
    expid       bigint unique,
    nid         integer not null references nights,
    field       integer not null,
    fid         smallint,
    filtercode  text not null,
    imgtype     text not null,
    programid   smallint,
    programpi   text,
    obsjd       double precision not null,
    exptime     real,
    airmass     real,
    ra          double precision,
    dec         double precision,
    expected    smallint not null default 16,
    state       text not null default 'arriving' check (state in ('arriving', 'processing', 'processed', 'calibrated',
                    'incomplete', 'bad', 'failed', 'missing', 'calibration')),
    reason      text,
    arrival     timestamptz,
    ingested    timestamptz,
    calibrated  timestamptz,
    differenced timestamptz,
    processed   timestamptz,
    published   timestamptz,
    late_stage  text,
    late_noted  timestamptz,
    created     timestamptz not null default now()
);
comment on table exposures is 'One row per exposure, in exactly one named state.';
comment on column exposures.expid is 'Numeric exposure id from the Julian date; null until a file of it was verified.';
comment on column exposures.obsjd is 'Start of the exposure, Julian date; from the file name until a header was read.';
comment on column exposures.imgtype is 'o on-sky, b bias, d dark, f dome flat, g focus.';
comment on column exposures.expected is 'CCD files that a whole exposure of this camera has.';
comment on column exposures.arrival is 'First file of the exposure seen in the inbox.';
comment on column exposures.calibrated is 'Last science products registered.';
comment on column exposures.differenced is 'Last difference products registered.';
comment on column exposures.published is 'Last alert acknowledged by the broker.';
comment on column exposures.late_stage is 'Stage in which the exposure was when it missed the deadline of alerts.';
create index exposures_nid on exposures (nid, state);
create index exposures_field on exposures (field, fid);

create table ccdfiles (
    ccdfile_id  bigint generated always as identity primary key,
    exposure    text not null references exposures,
    ccdid       smallint not null,
    filename    text not null unique,
    bytes       bigint,
    sha256      text,
    state       text not null check (state in ('received', 'ingested', 'quarantined', 'duplicate', 'processed',
                    'calibrated', 'bad', 'failed', 'missing')),
    error_code  text,
    reason      text,
    run_id      text,
    arrival     timestamptz,
    ingested    timestamptz,
    calibrated  timestamptz,
    differenced timestamptz,
    processed   timestamptz,
    path        text,
    product_id  bigint,
    header      jsonb
);
comment on table ccdfiles is 'One row per CCD file of an exposure, in exactly one named state.';
comment on column ccdfiles.path is 'Path below the archive root, or below the quarantine root when quarantined.';
comment on column ccdfiles.error_code is 'Code of the error class behind quarantined, bad or failed.';
create index ccdfiles_exposure on ccdfiles (exposure);
create index ccdfiles_state on ccdfiles (state);

create table receipts (
    receipt_id  bigint generated always as identity primary key,
    filename    text not null,
    exposure    text,
    bytes       bigint not null,
    sha256      text not null,
    source      text not null,
    arrival     timestamptz not null,
    verdict     text not null check (verdict in ('accepted', 'duplicate', 'quarantined')),
    error_code  text,
    reason      text,
    path        text not null,
    run_id      text,
    created     timestamptz not null default now(),
    unique (filename, source, sha256)
);
comment on table receipts is 'Every file that ever arrived, once: accepted, identical duplicate, or quarantined with a reason.';
comment on column receipts.source is 'device:inode:mtime of the arrived file, so that an interrupted move is told from a second copy.';
comment on column receipts.path is 'Where the file is now: below the archive root (accepted) or the quarantine root.';

create table manifests (
    manifest_id bigint generated always as identity primary key,
    nid         integer not null references nights,
    part        text not null check (part in ('night', 'calibration')),
    camera      text,
    filename    text not null,
    sha256      text not null,
    arrival     timestamptz not null default now(),
    superseded  boolean not null default false,
    unique (filename, sha256)
);
create unique index manifests_current on manifests (nid, part) where not superseded;

create table manifest_files (
    manifest_id bigint not null references manifests on delete cascade,
    nid         integer not null,
    filename    text not null,
    bytes       bigint,
    sha256      text,
    primary key (manifest_id, filename)
);
create index manifest_files_name on manifest_files (filename);
comment on table manifest_files is 'What the mountain says it sent.';
