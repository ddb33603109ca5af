-- Changes of settings: the run that rehearses each, so that it can be asked for again.

set search_path = ztf, public;

alter table setting_changes add column run_id text;
comment on column setting_changes.run_id is 'Run of the DAG change_request; clearing its task rehearse asks for the rehearsal again.';
comment on column setting_changes.state is
    'proposed: not rehearsed yet, or just now. validated: waits for a person. failed: new problems, no end, or no answer; it may be rehearsed again.';
create unique index setting_changes_run on setting_changes (run_id) where run_id is not null;
