-- Activity is most of the data, is read by recency and is dropped by age: one partition a month (UTC). The
-- default partition takes what no month is there for, so that a month created late never costs an event.

-- Free-standing: activity and deliveries draw from it, so a person's timeline sorts by one number. Cached, as
-- ingestion takes many at once; the gaps do no harm.
create sequence timeline_number as bigint cache 20;

comment on sequence timeline_number is 'Orders what happened to a person, across the tables that record it.';

create table activity (
    number bigint not null default nextval('timeline_number'),
    person_id bigint not null references people (id) on delete cascade,
    kind text not null,
    name text not null,
    source text,
    amount numeric(14, 2),
    properties jsonb not null default '{}',
    message_id uuid not null default gen_random_uuid(),
    occurred_at timestamptz not null,
    received_at timestamptz not null default now(),
    constraint activity_pkey primary key (number, occurred_at),
    constraint activity_kind_known check (kind in ('event', 'page', 'screen'))
) partition by range (occurred_at);

comment on table activity is 'What people did: events, pages, screens. Appended, never changed.';
comment on column activity.message_id is 'Names the event in the logs of the client that sent it.';

create index activity_person_idx on activity (person_id, occurred_at desc);
create index activity_name_idx on activity (lower(name), occurred_at desc);
create index activity_purchases_idx on activity (occurred_at) where amount is not null;

create table activity_default partition of activity default;

-- The table is made aside and attached: creating it as a partition would lock the parent against readers, too.
-- Rows that waited in the default partition move along, else attaching would be refused.
create function create_month_partition(parent text, month date) returns boolean
    language plpgsql
    -- Attaching locks the table that a foreign key points to against writes. A chore must not queue writers
    -- behind itself: it gives up, well before deadlock_timeout would pick a victim, and is called again.
    set lock_timeout = '200ms'
as $$
declare
    first_day constant date := date_trunc('month', month::timestamp)::date;
    next_first_day constant date := (first_day + interval '1 month')::date;
    part constant text := parent || to_char(first_day, '"_"YYYY"_"MM');
    key text;
begin
    -- No DDL at all when there is nothing to do, as DDL may be forbidden just now.
    if to_regclass(format('public.%I', part)) is not null then
        return false;
    end if;
    -- In the order in which writers mostly take them, and before any row is moved.
    lock table only public.people in share row exclusive mode;
    execute format('lock table only public.%I in share update exclusive mode', parent);
    execute format('lock table public.%I in access exclusive mode', parent || '_default');
    if to_regclass(format('public.%I', part)) is not null then
        return false;
    end if;
    key := pg_get_partkeydef(format('public.%I', parent)::regclass);
    key := substring(key from '^RANGE \((.*)\)$');
    execute format('create table public.%I (like public.%I including all)', part, parent);
    execute format(
        'with moved as (delete from public.%I where %s >= %L and %s < %L returning *)
         insert into public.%I select * from moved',
        parent || '_default', key, first_day || ' 00:00:00+00', key, next_first_day || ' 00:00:00+00', part);
    execute format(
        'alter table public.%I attach partition public.%I for values from (%L) to (%L)',
        parent, part, first_day || ' 00:00:00+00', next_first_day || ' 00:00:00+00');
    return true;
end
$$;

comment on function create_month_partition(text, date) is
    'Makes one month''s partition unless it is there; true if it made one.';

create function ensure_partitions(months_back integer default 2, months_ahead integer default 3) returns bigint
    language sql
begin atomic
    select count(*) filter (where create_month_partition(
        'activity', ((now() at time zone 'UTC') + make_interval(months => offset_months))::date))
    from generate_series(- months_back, months_ahead) as offset_months;
end;

comment on function ensure_partitions(integer, integer) is
    'Makes the monthly partitions around today that are missing, and says how many. Call it daily.';

select ensure_partitions();
