-- The few changes of structure that the pipeline needs, as functions of the owner; and who may do what.

create function ensure_night(night integer) returns void
language plpgsql security definer set search_path = ztf, pg_temp as $$
begin
    if to_regclass(format('ztf.candidates_n%s', night)) is not null
            and exists (select 1 from nights where nid = night) then
        return;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('ztf.ensure_night', night));
    insert into nights (nid, nightdate) values (night, date '2017-01-01' + night) on conflict (nid) do nothing;
    execute format('create table if not exists ztf.candidates_n%s partition of ztf.candidates for values in (%s)', night, night);
end $$;
comment on function ensure_night is 'Make the row of a night and its partition of candidates, if they are missing.';

create function next_object_number(calendar_year integer) returns bigint
language plpgsql security definer set search_path = ztf, pg_temp as $$
declare
    name text := format('ztf.object_numbers_%s', calendar_year);
begin
    if calendar_year not between 2000 and 2099 then
        raise exception 'no object names for the year %', calendar_year;
    end if;
    if to_regclass(name) is null then
        perform pg_advisory_xact_lock(hashtextextended('ztf.object_numbers', calendar_year));
        execute format('create sequence if not exists %s as bigint minvalue 0 start 0', name);
    end if;
    return nextval(name::regclass);
end $$;
comment on function next_object_number is 'Next number for the name of a new object: one sequence per year, from 0.';

revoke all on function ensure_night(integer), next_object_number(integer) from public;

grant usage on schema ztf to ztf_pipeline, ztf_reader, ztf_operator;

-- The pipeline reads and writes data; it makes, alters and drops nothing.
grant select, insert, update on all tables in schema ztf to ztf_pipeline;
grant usage on all sequences in schema ztf to ztf_pipeline;
grant delete on manifest_files, reference_members, candidates, object_history to ztf_pipeline; -- candidates: of an older version
grant execute on function ensure_night(integer), next_object_number(integer) to ztf_pipeline;
revoke insert, update on schema_migrations from ztf_pipeline;

-- Readers read.
grant select on all tables in schema ztf to ztf_reader, ztf_operator;

-- Operators also decide: which version is served, what is accepted, what is made anew, when a night is closed.
grant update (vbest, status) on products to ztf_operator;
grant update (accepted, reason) on calibrations to ztf_operator;
grant update (vbest, status, reason, regenerate) on references_ to ztf_operator;
grant update (state, reason) on exposures, ccdfiles to ztf_operator;
grant update (state, closed, summary) on nights to ztf_operator;
grant update (state) on alert_outbox to ztf_operator;

-- What later migrations make is open in the same way.
alter default privileges in schema ztf grant select, insert, update on tables to ztf_pipeline;
alter default privileges in schema ztf grant usage on sequences to ztf_pipeline;
alter default privileges in schema ztf grant select on tables to ztf_reader, ztf_operator;
