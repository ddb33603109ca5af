-- Streaks: trailed sources of fast movers on difference images, beside the candidates of the same image.

create table streaks (
    streakid     bigint primary key,
    pid          bigint not null,
    strid        integer not null,
    exposure     text not null references exposures,
    nid          integer not null,
    fid          integer not null,
    field        integer not null,
    rcid         integer not null,
    programid    integer not null,
    programpi    text,
    jd           double precision not null,
    exptime      real,
    startmjd     double precision,
    endmjd       double precision,
    xpos         double precision not null,
    ypos         double precision not null,
    xpos1        double precision not null,
    ypos1        double precision not null,
    xpos2        double precision not null,
    ypos2        double precision not null,
    ra           double precision not null,
    dec          double precision not null,
    ra1          double precision not null,
    dec1         double precision not null,
    ra2          double precision not null,
    dec2         double precision not null,
    raerr        real,
    decerr       real,
    corr         real,
    ra1err       real,
    dec1err      real,
    corr1        real,
    ra2err       real,
    dec2err      real,
    corr2        real,
    flux         real not null,
    fluxerr      real,
    bg           real,
    bgerr        real,
    length       real not null,
    lengtherr    real,
    sigma        real,
    sigmaerr     real,
    pa           real not null,
    paerr        real,
    rate         real,
    snr          real not null,
    fitmag       real,
    fitmagerr    real,
    apsnr        real,
    apmag        real,
    apmagerr     real,
    dmag         real,
    dmagerr      real,
    chi2         real,
    numfit       integer,
    prob         real not null,
    diffmaglim   real,
    flags        integer not null default 0,
    pointdrop    real,
    evenness     real,
    blocked      real,
    beyond       real,
    sides        real,
    hpx          bigint not null,
    trksub       text not null,
    created      timestamptz not null default now(),
    unique (pid, strid)
);
comment on table streaks is 'Streaks above the score limit of the best difference image of every quadrant; 1-based pixels, ends in no known order.';
comment on column streaks.prob is 'Score, 0 to 1: product of the rules in ztfds.difference.streakfit.score.';
comment on column streaks.flags is 'Bits: 1 an end is cut by the edge or missing data; 2 a bright star near; 4 bad pixels on it.';
comment on column streaks.sigma is 'Gaussian width across the streak, pixels.';
comment on column streaks.rate is 'deg per day, the length over the exposure time.';
comment on column streaks.hpx is 'HEALPix cell (nested, order 29) of ra, dec, the middle.';
comment on column streaks.trksub is 'Name of its tracklet in ADES files.';
create index streaks_night on streaks (nid, prob desc);
create index streaks_sky on streaks (hpx);
create index streaks_exposure on streaks (exposure);
create index streaks_tracklet on streaks (trksub);

grant delete on streaks to ztf_pipeline; -- of an older version of the image
