-- Alarms: rules that operators can change, and every alarm that was ever raised.

create table alarm_rules (
    version integer generated always as identity primary key,
    rules   jsonb not null,
    author  text not null,
    reason  text not null,
    created timestamptz not null default now()
);
comment on table alarm_rules is 'When to raise an alarm: every version ever in force; the newest counts (ztfds.config.alarms.AlarmRules).';

create table alarms (
    alarm_id     bigint generated always as identity primary key,
    rule         text not null,
    subject      text not null default '',
    severity     text not null check (severity in ('warning', 'critical')),
    message      text not null,
    value        double precision,
    raised       timestamptz not null,
    last_seen    timestamptz not null,
    cleared      timestamptz,
    told         timestamptz,
    told_cleared timestamptz,
    acknowledged timestamptz,
    acknowledged_by text
);
comment on table alarms is 'One row from the raising of an alarm to its clearing.';
comment on column alarms.subject is 'What the rule is about where there are several, e.g. the name of a disk.';
comment on column alarms.told is 'When somebody was told that it was raised (mail, webhook); null: nobody yet, it is tried again.';
create unique index alarms_open on alarms (rule, subject) where cleared is null;
create index alarms_newest on alarms (raised desc);

create table watch_rounds (
    one      boolean primary key default true check (one),
    at       timestamptz not null,
    metrics  jsonb not null
);
comment on table watch_rounds is 'The last round of the watch: when, and what it measured. An old one means that nobody watches.';

grant update (acknowledged, acknowledged_by) on alarms to ztf_operator;
grant insert on alarm_rules to ztf_operator;
grant usage on all sequences in schema ztf to ztf_operator;
