-- A version alone does not say whose change it was: a standby that was promoted without its primary's last changes, or a
-- backup that was restored, gives the same numbers to other changes. Each change has a mark that no other one has, so that
-- a router sees that the log it followed is not this one.
ALTER TABLE change_log ADD COLUMN mark bigint NOT NULL DEFAULT floor(random() * 9007199254740992)::bigint;
