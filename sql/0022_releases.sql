-- Public release: from when on everybody may see an epoch, and numbered data releases that stay as they were frozen.

create table release_policy (
    programid smallint primary key,
    days      integer check (days >= 0),
    words     text not null
);
comment on table release_policy is 'How long epochs of a program are for its members alone. Operators may change the days; what is released stays released.';
comment on column release_policy.days is 'Days from the exposure to its release; null: never.';
insert into release_policy (programid, days, words) values
    (0, null, 'engineering: never released'),
    (1, 0, 'public survey: at once'),
    (2, 548, 'partnership: 18 months'),
    (3, 548, 'Caltech: 18 months');

alter table exposures add column released timestamptz;
comment on column exposures.released is 'Since when everybody may see it; null: its program alone.';
create index exposures_unreleased on exposures (programid, obsjd) where released is null and imgtype = 'o';

create table data_releases (
    number     integer primary key check (number >= 1),
    title      text not null,
    first_nid  integer not null,
    last_nid   integer not null check (last_nid >= first_nid),
    statistics jsonb not null,
    remarks    text not null default '',
    author     text not null check (author <> ''),
    path       text not null,
    frozen     timestamptz not null default now()
);
comment on table data_releases is 'Data releases, numbered from 1; a row never changes.';
comment on column data_releases.path is 'Folder below the archive root: list of files with checksums, notes.';

create table data_release_files (
    number     integer not null references data_releases,
    product_id bigint not null references products,
    primary key (number, product_id)
);
comment on table data_release_files is 'The versions of products that a data release consists of, also after newer ones are served.';
create index data_release_files_product on data_release_files (product_id);

revoke update on data_releases, data_release_files from ztf_pipeline;
grant update (days) on release_policy to ztf_operator;

create function note_release_statistics(release integer, figures jsonb) returns void
language sql security definer set search_path = ztf, pg_temp as $$
    update data_releases set statistics = figures where number = release and statistics = '{}';
$$;
comment on function note_release_statistics is 'Keep the statistics of a release that is being frozen, once.';
revoke all on function note_release_statistics(integer, jsonb) from public;
grant execute on function note_release_statistics(integer, jsonb) to ztf_pipeline;
