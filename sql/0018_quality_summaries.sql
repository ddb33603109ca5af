-- Figures of quality by exposure, channel and night; visits and depth by field: what the pages of trends and the sky map are drawn from.

create table exposure_quality (
    exposure     text not null references exposures,
    name         text not null,
    nid          integer not null,
    field        integer not null,
    fid          smallint not null,
    jd           double precision not null,
    n            smallint not null,
    low          real not null,
    median       real not null,
    high         real not null,
    lowest_rcid  smallint not null,
    highest_rcid smallint not null,
    primary key (exposure, name)
);
comment on table exposure_quality is 'Some figures of an exposure over its quadrants (served versions), written when it is closed; names: survey/data/quality_figures.csv.';
comment on column exposure_quality.low is '5 % of the quadrants are below; high: 5 % are above.';
comment on column exposure_quality.lowest_rcid is 'Readout channel with the lowest value; highest_rcid: with the highest.';
create index exposure_quality_night on exposure_quality (nid, name);
create index exposure_quality_field on exposure_quality (field, fid, name);

create table night_quality (
    nid     integer not null references nights,
    fid     smallint not null,
    name    text not null,
    n       integer not null,
    low     real not null,
    median  real not null,
    high    real not null,
    scatter real not null,
    primary key (nid, fid, name)
);
comment on table night_quality is 'The same figures of a night and filter over its exposures.';
comment on column night_quality.median is 'Median of the exposures'' medians; low and high: 5 and 95 % of them; scatter: 1.4826 times the median distance from it.';

create table channel_quality (
    rcid    smallint not null,
    fid     smallint not null,
    name    text not null,
    nid     integer not null references nights,
    n       integer not null,
    low     real not null,
    median  real not null,
    high    real not null,
    expected_low  real,
    expected_high real,
    departs boolean not null default false,
    primary key (rcid, fid, name, nid)
);
comment on table channel_quality is 'The same figures of a readout channel, night and filter over its images; low and high: 5 and 95 %.';
comment on column channel_quality.expected_low is 'Ends of the band of its own history, to expected_high; null where there is too little of it.';
create index channel_quality_night on channel_quality (nid);
create index channel_quality_departures on channel_quality (nid) where departs;

create table field_nights (
    field     integer not null,
    fid       smallint not null,
    programid smallint not null,
    nid       integer not null references nights,
    visits    integer not null,
    usable    integer not null,
    depth     real,
    jd        double precision not null,
    ra        double precision,
    dec       double precision,
    primary key (field, fid, programid, nid)
);
comment on table field_nights is 'Visits of a field in a night by filter and program, kept up when an exposure is closed.';
comment on column field_nights.usable is 'Usable quadrant images of these visits.';
comment on column field_nights.depth is 'Median 5-sigma limit of one visit, mag; jd: start of the last visit; ra, dec: where the telescope pointed then, deg.';
create index field_nights_night on field_nights (nid);

create table field_totals (
    field     integer not null,
    fid       smallint not null,
    programid smallint not null,
    nights    integer not null,
    visits    integer not null,
    usable    integer not null,
    depth     real,
    jd        double precision not null,
    ra        double precision,
    dec       double precision,
    primary key (field, fid, programid)
);
comment on table field_totals is 'The same of all nights; depth: mean over the nights, weighted by visits.';

grant delete on exposure_quality, night_quality, channel_quality, field_nights, field_totals to ztf_pipeline;
