# make demo     play the whole story on a private PostgreSQL 18
# make test     run every test, on PostgreSQL 18 and on Debian's 15
# make psql     open a shell in the demo's database
# make bench    measure against the plain SQL that pg_civic replaces
# make lint     check formatting, clippy and, with cargo-deny, the dependencies
# make install  build the extension and install it into the server of PG_CONFIG
#
# PG_CONFIG=/path/to/pg_config names another server than the private ones.

export PG_CONFIG

.PHONY: help demo test psql bench lint install bootstrap

# The first target: `make` alone prints the lines above and installs nothing.
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

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
