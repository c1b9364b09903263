# make demo     plays the story on a real PostgreSQL
# make test     runs every test, on PostgreSQL 18 and on Debian's 15
# make psql     a shell in the demo's database
# make bench    measures against the plain SQL that this replaces
# make lint     formatting and clippy
# make install  builds it and installs it into the server of PG_CONFIG
#
# PG_CONFIG=/path/to/pg_config names another server than the private ones.

export PG_CONFIG

.PHONY: demo test psql bench lint install bootstrap

bootstrap:
	@scripts/bootstrap.sh

demo: bootstrap
	@scripts/demo.sh

psql: bootstrap
	@scripts/psql.sh

test: bootstrap
	@scripts/test.sh

bench: bootstrap
	@scripts/bench.sh

lint: bootstrap
	@scripts/lint.sh

install: bootstrap
	@scripts/install.sh
