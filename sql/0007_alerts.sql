-- Counting how often a position was covered since the survey's start, from the index alone.

create index diffimages_coverage on diffimages (hpx) include (jd, field, rcid, pid) where status = 1;
comment on index diffimages_coverage is 'Answers ncovhist without reading the rows: a position has thousands of images after some years.';
