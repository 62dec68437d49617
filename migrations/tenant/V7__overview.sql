-- The segment list counts members, which takes longer with every member: the counts may be minutes old. A
-- person's page is looked at one by one and must be right: a plain view.

create materialized view segment_sizes as
select
    s.id as segment_id,
    s.name,
    count(m.person_id) as people,
    count(m.person_id) filter (where not p.unsubscribed) as reachable,
    max(m.entered_at) as last_entered_at
from segments as s
    left join segment_memberships as m on m.segment_id = s.id and m.left_at is null
    left join people as p on p.id = m.person_id
where not s.archived
group by s.id, s.name;

comment on materialized view segment_sizes is 'As of the last refresh; refresh it concurrently.';

-- Without it a refresh would lock readers out.
create unique index segment_sizes_segment_key on segment_sizes (segment_id);

-- With the rights of who asks, so that it shows nobody more than the tables would.
create view person_overview with (security_invoker = true) as
select
    p.id,
    p.external_id,
    p.email,
    p.full_name,
    p.attributes,
    p.unsubscribed,
    (select max(d.last_at) from activity_daily as d where d.person_id = p.id) as last_active_at,
    (select coalesce(sum(d.revenue), 0) from activity_daily as d where d.person_id = p.id) as revenue,
    array(
        select s.name
        from segment_memberships as m
            join segments as s on s.id = m.segment_id
        where m.person_id = p.id and m.left_at is null and not s.archived
        order by s.name
    ) as segments
from people as p
where p.merged_into is null;

comment on view person_overview is 'What a person''s page shows.';

-- Push never bounces, e-mail does: without this the planner takes channel and state for unrelated.
create statistics deliveries_channel_state (dependencies, mcv) on channel, state from deliveries;

-- Nothing ever read it, and each new partition would carry it on.
alter table activity drop column source;
