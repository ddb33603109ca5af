-- Numbers of candidates that a newer version of their difference image has replaced: the same detection gets the same one again.

create table former_candidates (
    pid       bigint not null,
    candid    bigint not null,
    isdiffpos text not null,
    xpos      real,
    ypos      real,
    alerted   boolean not null,
    removed   timestamptz not null default now(),
    primary key (pid, candid)
);
comment on table former_candidates is 'Candidates that were taken out of the table candidates, with what their numbers are inherited by: quadrant, sign, pixel.';
comment on column former_candidates.xpos is 'Where it was measured when it was taken out, 1-based pixels (as ypos).';
comment on column former_candidates.alerted is 'True when a packet was made of it: it stays alerted should it come back.';
