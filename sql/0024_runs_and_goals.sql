-- What ran: the task, night, software and settings of every execution, also of those that failed; missed goals of latency.

alter table jobs add column nid integer;
alter table jobs add column dag text;
alter table jobs add column task text;
alter table jobs add column map_index integer;
alter table jobs add column waited_s real;
alter table jobs add column swversion text;
alter table jobs add column config_hash text;
comment on column jobs.nid is 'Night of the data; null for what is of no one night.';
comment on column jobs.map_index is 'Which of the mapped tasks of that name, from 0; -1: it is not mapped.';
comment on column jobs.waited_s is 'From the creation of the run to the start of its task, s; null where the task had been tried before.';
comment on column jobs.swversion is 'Package release, step and version of its code, as in products.';
comment on column jobs.config_hash is 'Hash of the critical part of the configuration, as in products.';
create index jobs_night on jobs (nid, job_id);
create index jobs_step on jobs (step, job_id);
create index jobs_class on jobs (error_class, job_id) where error_class is not null;
create index jobs_state on jobs (state, job_id) where state in ('running', 'killed', 'error');

alter table exposures add column goal_stage text;
alter table exposures add column goal_noted timestamptz;
comment on column exposures.goal_stage is 'Stage in which the exposure was when it missed the goal of 5 minutes.';
comment on column exposures.goal_noted is 'When that was noted.';
