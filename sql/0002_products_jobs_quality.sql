-- Products with their provenance, software and configuration versions, jobs and quality metrics.

create table software_versions (
    swversion text primary key,
    step      text not null,
    version   text not null,
    commit    text,
    first_use timestamptz not null default now()
);
comment on table software_versions is 'Versions of the code of every step, "step/version" of the package release.';

create table config_versions (
    config_hash text primary key,
    step        text not null,
    config      jsonb not null,
    first_use   timestamptz not null default now()
);
comment on table config_versions is 'Every configuration ever used, by the hash of its critical part.';

create table jobs (
    job_id      bigint generated always as identity primary key,
    step        text not null,
    dataset     text not null,
    exposure    text,
    rcid        smallint,
    run_id      text,
    try         smallint not null default 1,
    host        text not null,
    pid         integer not null,
    started     timestamptz not null default now(),
    ended       timestamptz,
    cpu_s       real,
    wall_s      real,
    peak_mb     real,
    state       text not null default 'running' check (state in ('running', 'done', 'skipped', 'error', 'killed')),
    error_class text,
    error_text  text
);
comment on column jobs.try is 'Which attempt of the orchestrator''s task it was, from 1.';
comment on column jobs.peak_mb is 'Largest resident memory of the process during the step, MB.';
create index jobs_exposure on jobs (exposure, rcid);
create index jobs_running on jobs (dataset) where state = 'running';

create table products (
    product_id    bigint generated always as identity primary key,
    provenance_id text not null,
    kind          text not null,
    dataset       text not null,
    step          text not null,
    exposure      text references exposures,
    expid         bigint,
    nid           integer references nights,
    field         integer,
    fid           smallint,
    ccdid         smallint,
    rcid          smallint,
    pid           bigint,
    programid     smallint,
    filename      text not null,
    path          text not null,
    bytes         bigint not null,
    sha256        text not null,
    version       smallint not null,
    vbest         smallint not null default 1 check (vbest in (0, 1, 2)),
    status        smallint not null default 1,
    infobits      bigint not null default 0,
    swversion     text not null,
    config_hash   text references config_versions,
    job_id        bigint references jobs,
    created       timestamptz not null default now(),
    meta          jsonb,
    unique (provenance_id, kind),
    unique (dataset, kind, version)
);
comment on column products.provenance_id is 'Hash of step name, step code version, dataset, critical configuration and the provenance ids of the parents; one execution of a step makes one product of each kind.';
comment on column products.dataset is 'What the products are of, e.g. one quadrant of one exposure; versions of a dataset replace each other.';
comment on column products.path is 'Path below the archive root.';
comment on column products.vbest is '0 superseded, 1 best, 2 locked as best.';
comment on column products.status is '1 usable, 0 not.';
create unique index products_best on products (dataset, kind) where vbest > 0;
create index products_quadrant on products (field, rcid, fid, kind) where vbest > 0;
create index products_exposure on products (exposure, rcid);
create index products_night on products (nid, kind);
create index products_sha on products (sha256);

create table product_parents (
    product_id bigint not null references products on delete cascade,
    parent_id  bigint not null references products,
    primary key (product_id, parent_id)
);
create index product_parents_parent on product_parents (parent_id);

alter table ccdfiles add foreign key (product_id) references products;

create table qa_metrics (
    provenance_id text not null,
    step          text not null,
    exposure      text,
    rcid          smallint,
    nid           integer,
    fid           smallint,
    name          text not null,
    value         double precision,
    created       timestamptz not null default now(),
    primary key (provenance_id, name)
);
comment on table qa_metrics is 'Quality metrics of one execution of a step (its products share the provenance id).';
create index qa_metrics_night on qa_metrics (nid, name);
create index qa_metrics_exposure on qa_metrics (exposure, rcid);
