-- The served product of a file name, without reading those of all nights.

set search_path = ztf, public;

create index products_filename on products (filename) where vbest > 0;
