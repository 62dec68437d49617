-- "Why did this person enter the segment?" needs what the attributes were, and the person row only knows what
-- they are.

-- No key: it is a log, the same change can happen twice in one moment, and a unique index would be as large as
-- the log. Rows leave with their person or by age.
create table attribute_changes (
    person_id bigint not null references people (id) on delete cascade,
    name text not null,
    old_value jsonb,
    new_value jsonb,
    changed_at timestamptz not null default now()
);

comment on table attribute_changes is 'One row per attribute that changed, written by a trigger on people.';

create index attribute_changes_person_idx on attribute_changes (person_id, changed_at);

create function changed_attributes(before jsonb, after jsonb)
    returns table (name text, old_value jsonb, new_value jsonb)
    language sql
    immutable
begin atomic
    select coalesce(b.key, a.key), b.value, a.value
    from jsonb_each(before) as b
        full join jsonb_each(after) as a on a.key = b.key
    where a.value is distinct from b.value;
end;

comment on function changed_attributes(jsonb, jsonb) is 'The attributes that differ; null stands for absent.';

create function log_attribute_changes() returns trigger
    language plpgsql
as $$
begin
    insert into public.attribute_changes (person_id, name, old_value, new_value)
    select new.id, c.name, c.old_value, c.new_value
    from public.changed_attributes(old.attributes, new.attributes) as c;
    return null;
end
$$;

comment on function log_attribute_changes() is 'Trigger: keeps what an update of attributes overwrites.';

create trigger people_log_attributes after update of attributes on people
    for each row when (old.attributes is distinct from new.attributes)
    execute function log_attribute_changes();
