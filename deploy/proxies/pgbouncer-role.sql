-- What each connection of a server asks PostgreSQL for, which a pooler drops: given to the servers' role for good.
-- Not to the role that migrates: that one may take longer, and read a table as a whole.
alter role app_user set statement_timeout = '1900ms';
alter role app_user set lock_timeout = '1500ms';
alter role app_user set idle_in_transaction_session_timeout = '2000ms';
alter role app_user set synchronous_commit = on;
alter role app_user set default_transaction_isolation = 'read committed';
alter role app_user set enable_seqscan = off;
alter role app_user set enable_bitmapscan = off;
alter role app_user set jit = off;
