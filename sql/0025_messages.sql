-- What running tasks say: warnings and errors of the library, kept the moment they are logged.

create table messages (
    message_id bigint generated always as identity primary key,
    at         timestamptz not null default now(),
    level      text not null check (level in ('warning', 'error')),
    source     text not null,
    text       text not null,
    step       text,
    exposure   text,
    rcid       smallint,
    nid        integer,
    dag        text,
    task       text,
    map_index  integer,
    run_id     text,
    try        smallint,
    host       text not null
);
comment on table messages is 'Warnings and errors that tasks logged, in the order in which they came.';
comment on column messages.source is 'Module that said it.';
create index messages_exposure on messages (exposure) where exposure is not null;
create index messages_night on messages (nid, message_id);
create index messages_at on messages (at);
