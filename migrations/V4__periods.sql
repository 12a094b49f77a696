-- What retention has to know so that it goes by the clock, and what an answer has to know so that it says exactly what
-- is missing.

-- A period of traffic was ended after this number before anything came that would have ended it: no block and no
-- roll-up reaches over it. Written before the roll-ups are, so that after a crash the same ones are made again.
ALTER TABLE log ADD COLUMN ended_traffic INTEGER NOT NULL DEFAULT 0;

-- The counts of minutes before this one (minutes since 1970) are gone.
ALTER TABLE log ADD COLUMN first_minute INTEGER;

-- The first events that this log ever held: more than 1 in one that was made of a part of another one.
ALTER TABLE log ADD COLUMN born_seq     INTEGER NOT NULL DEFAULT 1;
ALTER TABLE log ADD COLUMN born_traffic INTEGER NOT NULL DEFAULT 1;

-- When the very first event happened that retention took of a class; NULL where that was not noted at the time.
ALTER TABLE compactions ADD COLUMN began_at INTEGER;
