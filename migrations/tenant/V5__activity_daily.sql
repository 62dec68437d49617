-- Dashboards counted activity by day, and read every event to do so. The counts are kept as events arrive, and
-- outlive them: dropping an old month of activity leaves its summary.

create table activity_daily (
    day date not null,
    person_id bigint not null references people (id) on delete cascade,
    kind text not null,
    events bigint not null,
    revenue numeric(16, 2) not null default 0,
    last_at timestamptz not null,
    constraint activity_daily_pkey primary key (day, person_id, kind)
) partition by range (day);

comment on table activity_daily is 'Activity by person and UTC day, kept by a trigger on activity.';

create index activity_daily_person_idx on activity_daily (person_id, day desc);

create table activity_daily_default partition of activity_daily default;

create or replace function ensure_partitions(months_back integer default 2, months_ahead integer default 3)
    returns bigint
    language sql
begin atomic
    select count(*) filter (where create_month_partition(
        parent, ((now() at time zone 'UTC') + make_interval(months => offset_months))::date))
    from generate_series(- months_back, months_ahead) as offset_months,
        unnest(array['activity', 'activity_daily']) as parent;
end;

select ensure_partitions();

create function summarize_activity() returns trigger
    language plpgsql
as $$
begin
    -- In key order, so that two batches about the same people cannot deadlock.
    insert into public.activity_daily as kept (day, person_id, kind, events, revenue, last_at)
    select (occurred_at at time zone 'UTC')::date, person_id, kind,
        count(*), coalesce(sum(amount), 0), max(occurred_at)
    from arrived
    group by 1, 2, 3
    order by 1, 2, 3
    on conflict (day, person_id, kind) do update
    set events = kept.events + excluded.events,
        revenue = kept.revenue + excluded.revenue,
        last_at = greatest(kept.last_at, excluded.last_at);
    return null;
end
$$;

comment on function summarize_activity() is 'Trigger: adds a batch of activity to activity_daily.';

-- By statement: a batch of a thousand events costs one upsert.
create trigger activity_summarize after insert on activity
    referencing new table as arrived
    for each statement execute function summarize_activity();

-- The trigger's lock keeps new activity out until both are committed, so nothing is counted twice or not at all.
insert into activity_daily (day, person_id, kind, events, revenue, last_at)
select (occurred_at at time zone 'UTC')::date, person_id, kind,
    count(*), coalesce(sum(amount), 0), max(occurred_at)
from activity
group by 1, 2, 3;
