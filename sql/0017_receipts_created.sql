-- When files were received: nights that have changed since their report are found by it, every minute.

set search_path = ztf, public;

create index if not exists receipts_created on receipts (created);
create index if not exists receipts_exposure on receipts (exposure);
