-- References: why images were left out, verdicts, a queue of those to be made anew, retirement with what depends on them.

alter table references_ add column fwhm_px real, add column limits_version smallint, add column remarks text,
    add column rejected jsonb, add column retired boolean not null default false;
comment on column references_.remarks is 'Limits it broke, in words, also those that leave it usable; infobits are their bits.';
comment on column references_.limits_version is 'Version of survey/data/reference_limits.csv by which inputs and co-add were judged.';
comment on column references_.rejected is 'Images that were left out: [{product_id, exposure, reason}, ...].';
comment on column references_.retired is 'True when an operator took it out of service: never served again until that is undone.';
alter table reference_tries add column rejected jsonb;
comment on column reference_tries.rejected is 'Images that the last attempt left out: [{product_id, exposure, reason}, ...].';

create table reference_queue (
    queue_id     bigint generated always as identity primary key,
    field        integer not null,
    rcid         smallint not null,
    fid          smallint not null,
    origin       text not null check (origin in ('operator', 'bad differences', 'defective input', 'failed quality',
                     'better inputs', 'retired')),
    reason       text not null,
    who          text not null,
    priority     smallint not null default 0,
    state        text not null default 'queued' check (state in ('queued', 'running', 'done', 'failed', 'refused')),
    outcome      text,
    reference_id bigint references references_,
    made_id      bigint references references_,
    created      timestamptz not null default now(),
    started      timestamptz,
    finished     timestamptz
);
comment on table reference_queue is 'References to be made, or made anew, before the others: why, who asked, what became of it.';
comment on column reference_queue.reference_id is 'The one that is to be replaced; made_id: the one that was made.';
comment on column reference_queue.outcome is 'One line: what was made, why it failed, why it was refused.';
create unique index reference_queue_open on reference_queue (field, rcid, fid) where state in ('queued', 'running');
create index reference_queue_latest on reference_queue (created desc);

create table reference_retirements (
    retirement_id bigint generated always as identity primary key,
    reference_id  bigint not null references references_,
    reason        text not null,
    who           text not null,
    created       timestamptz not null default now(),
    served        smallint not null,
    status        smallint not null,
    summary       jsonb not null,
    undone        timestamptz,
    undone_by     text,
    undone_reason text
);
comment on table reference_retirements is 'References that were taken out of service; served and status are vbest and status before, for the undoing.';
comment on column reference_retirements.summary is 'What depended on it then: counts by kind, nights, candidates, alerts.';
create unique index reference_retirements_standing on reference_retirements (reference_id) where undone is null;

create table product_marks (
    product_id    bigint not null references products,
    retirement_id bigint not null references reference_retirements,
    mark          text not null,
    created       timestamptz not null default now(),
    primary key (product_id, retirement_id)
);
comment on table product_marks is 'Products that were made with a retired reference, whatever depends on them included; nothing is deleted.';
grant delete on product_marks to ztf_pipeline; -- when a retirement is undone

grant update (retired) on references_ to ztf_operator;
grant insert on reference_queue to ztf_operator;
grant update (state, outcome, priority) on reference_queue to ztf_operator;
