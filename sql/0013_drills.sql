-- Scores of drills: each contingency injected into a night of a sandbox.

create table drills (
    drill_id       bigint generated always as identity primary key,
    name           text not null,
    title          text not null,
    began          timestamptz not null,
    night          text not null,
    passed         boolean not null,
    files          integer not null,
    files_lost     integer not null,
    alerts         integer not null,
    alerts_lost    integer not null,
    alerts_doubled integer not null,
    recovery_s     real not null,
    wall_s         real not null,
    states         jsonb not null,
    alarms         text[] not null,
    problems       text[] not null,
    software       text not null,
    unique (name, began)
);
comment on table drills is 'What came of every drill (ztfds.drills.score.DrillScore).';
comment on column drills.night is 'UT date of the sandbox night, YYYYMMDD; empty when the drill ended before it was sent.';
comment on column drills.recovery_s is 'From the repair until every file was in a final state and every alert acknowledged, s.';
create index drills_newest on drills (name, began desc);
