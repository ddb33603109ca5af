-- Readout channels over time: figures of every split quadrant, trends of gain, noise and saturation; smooth calibration maps.

alter table calibrations drop constraint calibrations_caltype_check;
alter table calibrations add constraint calibrations_caltype_check
    check (caltype in ('bias', 'hifreqflat', 'lampcorr', 'lownuflat'));
alter table calibrations add column version smallint not null default 1;
comment on column calibrations.version is 'Version of its products: 1, 2, ... of the same night, channel and filter.';
comment on column calibrations.valid_to_jd is 'End of validity where one is declared; null: until a later accepted one takes over.';

create table split_quality (
    exposure      text not null references exposures,
    rcid          smallint not null,
    jd            double precision not null,
    fid           smallint not null,
    provenance_id text not null,
    metrics       jsonb not null,
    flags         integer not null default 0,
    reasons       text,
    created       timestamptz not null default now(),
    primary key (exposure, rcid)
);
comment on table split_quality is 'Figures of each quadrant after overscan and linearity, compared with the last good ones of its channel.';
comment on column split_quality.flags is 'Bits of the rules it broke (ztfds.config.detrend.SPLIT_RULES); 0 is good and becomes history.';
create index split_quality_history on split_quality (rcid, jd desc) where flags = 0;

create table channel_trends (
    provenance_id text not null,
    caltype       text not null,
    rcid          smallint not null,
    fid           smallint not null default 0,
    nid           integer not null references nights,
    jd            double precision not null,
    metrics       jsonb not null,
    accepted      boolean not null,
    flags         integer not null default 0,
    reasons       text,
    created       timestamptz not null default now(),
    primary key (provenance_id)
);
comment on table channel_trends is 'Gain, read noise, saturation and the like of each channel, from the frames of its biases and flats.';
comment on column channel_trends.flags is 'Bits of the rules it broke (ztfds.config.detrend.TREND_RULES).';
create index channel_trends_history on channel_trends (rcid, caltype, fid, jd desc) where accepted and flags = 0;

grant update (valid_to_jd) on calibrations to ztf_operator;
grant update (flags, reasons) on split_quality, channel_trends to ztf_operator;
