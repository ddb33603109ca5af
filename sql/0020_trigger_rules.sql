-- Trigger rules: what starts which work, and which work comes first; every version that was ever in force.

create table trigger_rules (
    version     integer generated always as identity primary key,
    rules       jsonb not null,
    differences jsonb not null default '[]',
    author      text not null check (author <> ''),
    reason      text not null check (reason <> ''),
    created     timestamptz not null default now()
);
comment on table trigger_rules is 'Which event starts which DAG, in which order and with which priority; the newest version counts (ztfds.config.triggers.TriggerRules).';
comment on column trigger_rules.differences is 'What this version changed: rule, setting, before, after.';

grant insert on trigger_rules to ztf_operator;
grant usage on all sequences in schema ztf to ztf_operator;
