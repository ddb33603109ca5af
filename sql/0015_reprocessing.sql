-- Degraded modes of a night, verdicts of people on data, requests to process again.

create table operation_modes (
    mode_id   bigint generated always as identity primary key,
    mode      text not null check (mode in ('calibrate_only', 'no_forced_photometry', 'no_alerts')),
    nid       integer not null,
    author    text not null check (author <> ''),
    reason    text not null check (reason <> ''),
    created   timestamptz not null default now(),
    ended     timestamptz,
    ended_by  text
);
comment on table operation_modes is 'What an operator has switched off for one night: heeded by every task that begins afterwards.';
create unique index operation_modes_open on operation_modes (nid, mode) where ended is null;

create table verdicts (
    verdict_id bigint generated always as identity primary key,
    exposure   text not null references exposures,
    rcid       smallint,
    verdict    text not null check (verdict in ('blessed', 'defective')),
    analyst    text not null check (analyst <> ''),
    comment    text not null check (comment <> ''),
    created    timestamptz not null default now(),
    withdrawn  timestamptz,
    withdrawn_by text,
    effects    jsonb not null default '{}'
);
comment on table verdicts is 'What a person says of an exposure or of one of its quadrants: the newest that is not withdrawn counts.';
comment on column verdicts.rcid is 'Readout channel; null: the whole exposure.';
comment on column verdicts.effects is 'What followed from it when it was given: numbers of products, references queued.';
create index verdicts_exposure on verdicts (exposure, rcid) where withdrawn is null;


create table reprocessing_requests (
    request_id bigint generated always as identity primary key,
    author     text not null check (author <> ''),
    reason     text not null check (reason <> ''),
    selection  jsonb not null,
    steps      text[] not null,
    settings   jsonb not null default '{}',
    resend     boolean not null default false,
    priority   smallint not null default 5 check (priority between 1 and 9),
    state      text not null default 'waiting'
                   check (state in ('waiting', 'running', 'paused', 'done', 'cancelled', 'rolled_back')),
    preview    jsonb not null,
    created    timestamptz not null default now(),
    started    timestamptz,
    ended      timestamptz,
    outcome    text
);
comment on table reprocessing_requests is 'Requests to process data again, with other settings or other software.';
comment on column reprocessing_requests.priority is '1 first, 9 last; real-time work always comes before.';
comment on column reprocessing_requests.settings is 'Differences from the settings in force, as nested objects.';

create table reprocessing_items (
    request_id  bigint not null references reprocessing_requests on delete cascade,
    filename    text not null,
    exposure    text not null,
    state       text not null default 'waiting'
                    check (state in ('waiting', 'running', 'done', 'unchanged', 'failed', 'rolled_back')),
    reason      text,
    before      jsonb,
    made        jsonb,
    run_id      text,
    started     timestamptz,
    ended       timestamptz,
    primary key (request_id, filename)
);
comment on table reprocessing_items is 'One row for each CCD file of a request.';
comment on column reprocessing_items.before is 'What was served before: product ids, difference rows, candidates; a roll-back puts it back.';
create index reprocessing_items_state on reprocessing_items (request_id, state);

grant delete on reprocessing_items, diffimages to ztf_pipeline; -- diffimages: put back by a roll-back
