-- A delivery is one message to one person. The sender claims it here before it sends, because a message sent
-- twice is worse than one sent late.

create type delivery_state as enum ('queued', 'sending', 'sent', 'bounced', 'failed');

create table deliveries (
    id uuid primary key default gen_random_uuid(),
    number bigint not null default nextval('timeline_number'),
    person_id bigint not null references people (id) on delete cascade,
    segment_id bigint references segments (id) on delete set null,
    channel text not null,
    state delivery_state not null default 'queued',
    recipient text not null,
    subject text,
    content jsonb not null default '{}',
    links text[] not null default '{}',
    cost numeric(12, 6),
    attempts integer not null default 0,
    idempotency_key text,
    last_error text,
    queued_at timestamptz not null default now(),
    sent_at timestamptz,
    updated_at timestamptz not null default now(),
    constraint deliveries_channel_known check (channel in ('email', 'push', 'sms', 'webhook')),
    constraint deliveries_sent_at check (state <> 'sent' or sent_at is not null)
);

comment on type delivery_state is 'queued, sending, then one of the others for good.';
comment on column deliveries.idempotency_key is 'The caller''s: a request repeated after a lost reply sends nothing.';

create unique index deliveries_number_key on deliveries (number);
create unique index deliveries_idempotency_key on deliveries (idempotency_key) where idempotency_key is not null;
create index deliveries_person_idx on deliveries (person_id, number desc);
create index deliveries_segment_idx on deliveries (segment_id) where segment_id is not null;
-- The queue stays as small as its backlog, however long the history gets.
create index deliveries_pending_idx on deliveries (queued_at) where state in ('queued', 'sending');

create trigger deliveries_touch before update on deliveries
    for each row execute function touch_updated_at();

-- Added now that there is more than one channel to leave.
alter table people add column unsubscribed_channels text[] not null default '{}';
