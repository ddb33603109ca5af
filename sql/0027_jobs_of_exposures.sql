-- The executions of one exposure, the newest first, without reading those of all others.

set search_path = ztf, public;

create index jobs_exposure_newest on jobs (exposure, job_id) where exposure is not null;
