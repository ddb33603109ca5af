-- Limits of telemetry: every version that was ever in force; a new one is put among the quantities by the database itself.

set search_path = ztf, public;

create table telemetry_limits (
    version     integer generated always as identity primary key,
    rules       jsonb not null,
    differences jsonb not null default '[]',
    author      text not null check (author <> ''),
    reason      text not null check (reason <> ''),
    created     timestamptz not null default now()
);
comment on table telemetry_limits is 'From which reading on a quantity departs, and the tolerance of its readings; the newest version counts (ztfds.config.telemetry.TelemetryLimits).';
comment on column telemetry_limits.differences is 'What this version changed: rule (the quantity), setting, before, after.';

insert into telemetry_limits (rules, author, reason)
select jsonb_build_object('limits', jsonb_agg(jsonb_build_object('name', name, 'low', low, 'high', high, 'tolerance_s', tolerance_s)
                                              order by quantity_id)),
       'ztfds', 'in force before versions were kept'
  from telemetry_quantities;

create function heed_telemetry_limits() returns trigger
language plpgsql security definer set search_path = ztf, pg_temp as $$
begin
    update telemetry_quantities q set low = l.low, high = l.high, tolerance_s = l.tolerance_s
      from jsonb_to_recordset(new.rules -> 'limits') as l (name text, low double precision, high double precision, tolerance_s real)
     where l.name = q.name;
    return null;
end $$;
create trigger telemetry_limits_heeded after insert on telemetry_limits for each row execute function heed_telemetry_limits();

grant insert on telemetry_limits to ztf_operator;
grant usage on all sequences in schema ztf to ztf_operator;
revoke update on telemetry_limits from ztf_pipeline;
revoke update (low, high, tolerance_s) on telemetry_quantities from ztf_operator, ztf_pipeline;
revoke update on telemetry_quantities from ztf_pipeline;
comment on column telemetry_quantities.low is 'A reading below departs; null: no limit. Changed by a version of telemetry_limits.';
comment on column telemetry_quantities.high is 'A reading above departs; null: no limit. Changed by a version of telemetry_limits.';
