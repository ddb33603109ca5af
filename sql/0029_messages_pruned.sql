-- What tasks said is kept for a while only.

set search_path = ztf, public;

grant delete on messages to ztf_pipeline;
