-- Indexes from which pages and the watch read what they show, however many nights there are.

create index diffimages_night on diffimages (nid) include (exposure, nalertpackets, status);
create index diffimages_reference on diffimages (reference_id, jd desc);
create index products_night_images on products (nid, rcid) include (status) where kind = 'sciimg' and vbest > 0;
create index products_documents on products (kind, nid desc) where exposure is null and field is null and rcid is null;
comment on index products_documents is 'Reports, maps and the like: what is of no exposure, field or channel.';
create index split_quality_latest on split_quality (rcid, jd desc);
create index split_quality_flagged on split_quality (created desc) where flags <> 0;
create index channel_trends_latest on channel_trends (rcid, caltype, fid, jd desc);
create index references_counts on references_ (fid, field) include (status, regenerate, nframes, maglimit, fwhm_px) where vbest > 0;
create index references_look on references_ (field, fid)
    where vbest > 0 and (status <> 1 or regenerate or remarks is not null);
create index references_failed on references_ (created) where status = 0;
drop index ccdfiles_exposure;
create index ccdfiles_exposure on ccdfiles (exposure) include (state);
create index alert_outbox_acked on alert_outbox (acked) where acked is not null;
create index jobs_failed on jobs (ended desc) where state in ('error', 'killed');
create index jobs_started on jobs (started) include (step, state, cpu_s, wall_s);
