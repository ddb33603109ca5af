-- Operators' day tasks: outcomes, retention rules and removals, disks, downtimes, care of the partitions.

create table task_outcomes (
    outcome_id bigint generated always as identity primary key,
    task       text not null,
    subject    text not null default '',
    run_id     text not null,
    attempt    smallint not null default 1,
    started    timestamptz not null,
    ended      timestamptz not null default now(),
    state      text not null check (state in ('ok', 'warn', 'failed')),
    line       text not null check (line <> '' and line !~ E'[\n\r]'),
    figures    jsonb not null default '{}',
    unique (task, subject, run_id)
);
comment on table task_outcomes is 'One line of outcome for every run of a day task; a repeated run replaces its own line.';
comment on column task_outcomes.subject is 'What it was about: a night (YYYYMMDD), or empty.';
comment on column task_outcomes.figures is 'The numbers behind the line.';
create index task_outcomes_newest on task_outcomes (task, ended desc);

create table retention_rules (
    version integer generated always as identity primary key,
    rules   jsonb not null,
    author  text not null,
    reason  text not null,
    created timestamptz not null default now()
);
comment on table retention_rules is 'How long files are kept: every version ever in force; the newest counts (ztfds.config.operations.Retention).';

create table removed_files (
    removal_id    bigint generated always as identity primary key,
    place         text not null,
    path          text not null,
    bytes         bigint not null,
    sha256        text,
    rule          text not null,
    rules_version integer not null default 0,
    proof         text not null,
    run_id        text not null,
    removed       timestamptz not null default now()
);
comment on table removed_files is 'Every file that the cleanup removed, and where the same content was verified just before.';
comment on column removed_files.sha256 is 'Null for unfinished files of dead processes, which were never a product.';
create index removed_files_path on removed_files (path);

create table disk_samples (
    place       text not null,
    taken       timestamptz not null default now(),
    free_bytes  bigint not null,
    total_bytes bigint not null,
    primary key (place, taken)
);
comment on table disk_samples is 'Free space over time: what the hours until a disk is full are predicted from.';

create table downtimes (
    downtime_id  bigint generated always as identity primary key,
    reason       text not null check (reason <> ''),
    announced_by text not null,
    announced    timestamptz not null default now(),
    ends         timestamptz,
    drained      timestamptz,
    released     timestamptz,
    released_by  text
);
comment on table downtimes is 'Scheduled downtimes: while one is open and not past its end, ingestd sends no new work; files go on arriving in the inbox.';
comment on column downtimes.ends is 'Work resumes by itself at this time; null: not before somebody resumes it.';
create unique index downtimes_open on downtimes ((true)) where released is null;

create table retired_nights (
    nid      integer primary key references nights,
    rows     bigint not null,
    sha256   text not null,
    path     text not null,
    retired  timestamptz not null default now()
);
comment on table retired_nights is 'Nights whose candidates live on in a file of the archive only.';

create function ensure_candidates_partition(night integer) returns boolean
language plpgsql security definer set search_path = ztf, pg_temp as $$
begin
    if to_regclass(format('ztf.candidates_n%s', night)) is not null then
        return false;
    end if;
    perform pg_advisory_xact_lock(hashtextextended('ztf.ensure_night', night));
    execute format('create table if not exists ztf.candidates_n%s partition of ztf.candidates for values in (%s)', night, night);
    return true;
end $$;
comment on function ensure_candidates_partition is 'Make the partition of a night to come; its row of nights is made when it begins.';

create function drop_empty_partition(night integer) returns boolean
language plpgsql security definer set search_path = ztf, pg_temp as $$
declare
    filled boolean;
begin
    if to_regclass(format('ztf.candidates_n%s', night)) is null or exists (select 1 from nights where nid = night) then
        return false;
    end if;
    execute format('lock table ztf.candidates_n%s in access exclusive mode', night);
    execute format('select exists (select 1 from ztf.candidates_n%s)', night) into filled;
    if filled then
        return false;
    end if;
    execute format('drop table ztf.candidates_n%s', night);
    return true;
end $$;
comment on function drop_empty_partition is 'Drop the partition of a night that was never opened.';

create function retire_night(night integer) returns bigint
language plpgsql security definer set search_path = ztf, pg_temp as $$
declare
    kept products%rowtype;
    n bigint;
begin
    if to_regclass(format('ztf.candidates_n%s', night)) is null then
        return 0;
    end if;
    select * into kept from products where nid = night and kind = 'candidates_parquet' and vbest > 0;
    if not found then
        raise exception 'the candidates of night % are in no file of the archive', night;
    end if;
    execute format('lock table ztf.candidates_n%s in access exclusive mode', night);
    execute format('select count(*) from ztf.candidates_n%s', night) into n;
    if (kept.meta ->> 'rows')::bigint is distinct from n then
        raise exception 'night % has % candidates, but its file %', night, n, kept.meta ->> 'rows';
    end if;
    insert into retired_nights (nid, rows, sha256, path) values (night, n, kept.sha256, kept.path)
        on conflict (nid) do update set rows = excluded.rows, sha256 = excluded.sha256, path = excluded.path, retired = now();
    execute format('drop table ztf.candidates_n%s', night);
    return n;
end $$;
comment on function retire_night is 'Drop the candidates of a night that a registered file of the same number of rows holds; refuses otherwise.';

revoke all on function ensure_candidates_partition(integer), drop_empty_partition(integer), retire_night(integer) from public;
grant execute on function ensure_candidates_partition(integer), drop_empty_partition(integer), retire_night(integer) to ztf_pipeline;

-- Operators announce downtimes and set rules.
grant insert on downtimes, retention_rules to ztf_operator;
grant update (ends, released, released_by) on downtimes to ztf_operator;
grant delete on disk_samples to ztf_pipeline;

-- A backup reads the state of sequences, and the care of the database needs no owner.
grant select on all sequences in schema ztf to ztf_pipeline;
alter default privileges in schema ztf grant select on sequences to ztf_pipeline;
do $$ begin
    if current_setting('server_version_num')::integer >= 170000 then
        execute 'grant maintain on all tables in schema ztf to ztf_pipeline';
        execute 'alter default privileges in schema ztf grant maintain on tables to ztf_pipeline';
    end if;
end $$;
