-- Difference images, candidates (the measured columns of the alert packet, same names and units), object names, alert outbox.

create table diffimages (
    pid            bigint primary key,
    provenance_id  text not null unique,
    product_id     bigint not null references products,
    exposure       text not null references exposures,
    nid            integer not null,
    field          integer not null,
    fid            smallint not null,
    rcid           smallint not null,
    jd             double precision not null,
    programid      smallint not null,
    programpi      text,
    exptime        real,
    status         smallint not null,
    reason         text,
    reference_id   bigint references references_,
    diffmaglim     real,
    pdiffimfilename text,
    magzpsci       real,
    magzpsciunc    real,
    magzpscirms    real,
    clrcoeff       real,
    clrcounc       real,
    rbversion      text,
    ra             double precision not null,
    dec            double precision not null,
    corners        double precision[] not null,
    hpx            bigint not null,
    ncandidates    integer not null default 0,
    nalertpackets  integer not null default 0,
    created        timestamptz not null default now()
);
comment on table diffimages is 'The best difference image of every quadrant: what upper limits and coverage counts are made from.';
comment on column diffimages.corners is 'Corners of the quadrant, deg: ra1, dec1 ... ra4, dec4 in order around it.';
comment on column diffimages.hpx is 'HEALPix cell (nested, order 29) of the centre.';
create index diffimages_sky on diffimages (hpx, jd);
create index diffimages_exposure on diffimages (exposure);

create table candidates (
    objectid        text not null,
    exposure        text not null,
    hpx             bigint not null,
    alerted         boolean not null,
    jd              double precision not null,
    fid             integer not null,
    pid             bigint not null,
    diffmaglim      real,
    pdiffimfilename text,
    programpi       text,
    programid       integer not null,
    candid          bigint not null,
    isdiffpos       text not null,
    tblid           bigint,
    nid             integer not null,
    rcid            integer not null,
    field           integer not null,
    xpos            real,
    ypos            real,
    ra              double precision not null,
    dec             double precision not null,
    magpsf          real not null,
    sigmapsf        real not null,
    chipsf          real,
    magap           real,
    sigmagap        real,
    distnr          real,
    magnr           real,
    sigmagnr        real,
    chinr           real,
    sharpnr         real,
    sky             real,
    magdiff         real,
    fwhm            real,
    classtar        real,
    mindtoedge      real,
    magfromlim      real,
    seeratio        real,
    aimage          real,
    bimage          real,
    aimagerat       real,
    bimagerat       real,
    elong           real,
    nneg            integer,
    nbad            integer,
    rb              real,
    ssdistnr        real,
    ssmagnr         real,
    ssnamenr        text,
    sumrat          real,
    magapbig        real,
    sigmagapbig     real,
    ranr            double precision,
    decnr           double precision,
    sgmag1          real,
    srmag1          real,
    simag1          real,
    szmag1          real,
    sgscore1        real,
    distpsnr1       real,
    ndethist        integer,
    ncovhist        integer,
    jdstarthist     double precision,
    jdendhist       double precision,
    scorr           double precision,
    tooflag         integer,
    objectidps1     bigint,
    objectidps2     bigint,
    sgmag2          real,
    srmag2          real,
    simag2          real,
    szmag2          real,
    sgscore2        real,
    distpsnr2       real,
    objectidps3     bigint,
    sgmag3          real,
    srmag3          real,
    simag3          real,
    szmag3          real,
    sgscore3        real,
    distpsnr3       real,
    nmtchps         integer,
    rfid            bigint,
    jdstartref      double precision,
    jdendref        double precision,
    nframesref      integer,
    rbversion       text,
    dsnrms          real,
    ssnrms          real,
    dsdiff          real,
    magzpsci        real,
    magzpsciunc     real,
    magzpscirms     real,
    nmatches        integer,
    clrcoeff        real,
    clrcounc        real,
    zpclrcov        real,
    zpmed           real,
    clrmed          real,
    clrrms          real,
    neargaia        real,
    neargaiabright  real,
    maggaia         real,
    maggaiabright   real,
    exptime         real,
    drb             real,
    drbversion      text,
    primary key (nid, candid)
) partition by list (nid);
comment on table candidates is 'Every candidate that was extracted; names, units and conventions are those of the alert packet (1-based xpos, ypos).';
comment on column candidates.hpx is 'HEALPix cell (nested, order 29) of ra, dec.';
comment on column candidates.alerted is 'True when it passed the trigger criteria and a packet was made.';
create index candidates_sky on candidates (hpx);
create index candidates_object on candidates (objectid);
create index candidates_quadrant on candidates (pid);
create index candidates_exposure on candidates (exposure);

create table object_names (
    objectid text primary key,
    ra       double precision not null,
    dec      double precision not null,
    hpx      bigint not null,
    jd       double precision not null,
    candid   bigint not null,
    year     smallint not null
);
comment on table object_names is 'Names of sky positions: given at the first alert, used again within 1.5 arcsec.';
create index object_names_sky on object_names (hpx);

create table object_history (
    objectid text not null,
    field    integer not null,
    rcid     integer not null,
    ndet     integer not null check (ndet > 0),
    jdfirst  double precision not null,
    jdlast   double precision not null,
    primary key (objectid, field, rcid)
);
comment on table object_history is 'Detections of an object on one field and channel: written with its candidates, so that their number is known without asking every night''s partition.';
comment on column object_history.jdfirst is 'Julian dates of the earliest and (jdlast) the latest of them.';

create table alert_batches (
    batch_id   bigint generated always as identity primary key,
    topic      text not null,
    host       text not null,
    pid        integer not null,
    started    timestamptz not null default now(),
    finished   timestamptz,
    offsets    jsonb not null
);
comment on table alert_batches is 'What one publisher takes at once; offsets are the ends of the topic''s partitions before it sends.';

create table alert_outbox (
    candid          bigint primary key,
    objectid        text not null,
    exposure        text not null,
    rcid            smallint,
    topic           text not null,
    packet          bytea,
    archive_path    text,
    bytes           integer not null,
    nid             integer not null,
    programid       smallint not null,
    created         timestamptz not null default now(),
    state           text not null default 'queued' check (state in ('queued', 'sending', 'sent')),
    attempt         smallint not null default 0,
    batch_id        bigint references alert_batches,
    acked           timestamptz,
    kafka_partition integer,
    kafka_offset    bigint,
    check (packet is not null or archive_path is not null or state = 'sent')
);
comment on table alert_outbox is 'Alerts that must reach the broker: written in the transaction that registers the candidates, marked sent by the broker''s acknowledgement.';
create index alert_outbox_waiting on alert_outbox (topic, created) where state <> 'sent';
create index alert_outbox_exposure on alert_outbox (exposure);
create index alert_outbox_night on alert_outbox (nid, state);
