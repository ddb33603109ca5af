-- Change control: proposed differences of settings with purpose, risk, validation and approval; which settings may run.

create table setting_changes (
    change_id   bigint generated always as identity primary key,
    purpose     text not null check (purpose <> ''),
    risk        text not null check (risk <> ''),
    author      text not null check (author <> ''),
    changes     jsonb not null,
    differences jsonb not null,
    state       text not null default 'proposed'
                    check (state in ('proposed', 'validated', 'failed', 'in_force', 'rejected', 'withdrawn')),
    validation  jsonb,
    decided_by  text,
    decided     timestamptz,
    comment     text,
    created     timestamptz not null default now()
);
comment on table setting_changes is 'Every change of settings that was ever proposed.';
comment on column setting_changes.changes is 'Nested differences from the settings of the code; those in force are applied in order.';
comment on column setting_changes.differences is 'The same in a flat list: setting, before, after.';
comment on column setting_changes.validation is 'Key figures of a rehearsal of a standard night before and after.';

create table approved_settings (
    settings_hash text primary key,
    change_id     bigint references setting_changes,
    software      text not null,
    approved_by   text not null,
    approved      timestamptz not null default now(),
    settings      jsonb not null
);
comment on table approved_settings is 'Settings with which the pipelines may run, by the hash of their critical part. The first ones are those shipped.';
