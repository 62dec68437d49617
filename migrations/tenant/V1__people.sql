-- People are what every other table hangs on. A customer imports the same person by its own id, by e-mail, or
-- by both, so each of the two is unique by itself, and neither is required.

-- A domain, so that each table that stores an address refuses the same nonsense.
create domain email_address as text
    constraint email_address_shape check (value ~ '^[^@\s]+@[^@\s]+$' and length(value) <= 320);

create table people (
    id bigint generated always as identity primary key,
    external_id text,
    email email_address,
    -- Stored: throttling counts people per mailbox provider, and must not take addresses apart for it.
    email_domain text generated always as (lower(split_part(email::text, '@', 2))) stored,
    full_name text,
    attributes jsonb not null default '{}',
    tags text[] not null default '{}',
    unsubscribed boolean not null default false,
    -- A merged person stays, so that links in messages sent earlier still find someone.
    merged_into bigint references people (id) on delete set null,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint people_external_id_key unique (external_id),
    constraint people_attributes_object check (jsonb_typeof(attributes) = 'object'),
    constraint people_merged_into_other check (merged_into <> id)
) with (fillfactor = 90); -- attributes change all the time: leave room to do it within the page

comment on table people is 'Everyone the account has ever told us about, merged and unsubscribed included.';
comment on column people.attributes is 'What the account sends about a person, as it was sent.';

-- Merged people keep their address without holding it against the person who now has it.
create unique index people_email_key on people (lower(email::text)) where email is not null and merged_into is null;
create index people_email_domain_idx on people (email_domain) where not unsubscribed;
create index people_merged_into_idx on people (merged_into) where merged_into is not null;
create index people_attributes_idx on people using gin (attributes jsonb_path_ops);
create index people_tags_idx on people using gin (tags);

create function touch_updated_at() returns trigger
    language plpgsql
as $$
begin
    new.updated_at := now();
    return new;
end
$$;

comment on function touch_updated_at() is 'Trigger: dates the change, so that no writer can forget to.';

create trigger people_touch before update on people
    for each row execute function touch_updated_at();
