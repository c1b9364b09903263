# make demo     play the whole story on a private PostgreSQL 18
# make test     run every test, on PostgreSQL 18 and on Debian's 15
# make test-all the same, and then on PostgreSQL 17 and 16
# make proof    make test, with the long tests at their full length
# make psql     open a shell in the demo's database
# make bench    measure against the plain SQL that pg_civic replaces
# make lint     check formatting, clippy and, with cargo-deny, the dependencies
# make package  build a .deb and a tarball for each major into dist/, and try them
# make install  build the extension and install it into the server of PG_CONFIG
#
# PG_CONFIG=/path/to/pg_config names another server than the private ones.

export PG_CONFIG

.PHONY: help demo test test-all proof psql bench lint package install tools test-tools package-tools

# The first target: `make` alone prints the lines above and installs nothing.
help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

tools:
	@scripts/bootstrap.sh demo

test-tools:
	@scripts/bootstrap.sh test

package-tools:
	@scripts/bootstrap.sh package

demo: tools
	@scripts/demo.sh

psql: tools
	@scripts/psql.sh

test: test-tools
	@scripts/test.sh

test-all: test
	@PG_CIVIC_TESTED=others scripts/bootstrap.sh test
	@PG_CIVIC_TESTED=others scripts/test.sh

proof: test-tools
	@CIVIC_PROOF=1 PROPTEST_CASES=4096 scripts/test.sh

bench: tools
	@scripts/bench.sh

lint: test-tools
	@scripts/lint.sh

package: package-tools
	@scripts/package.sh
	@scripts/test-package.sh

install: tools
	@scripts/install.sh
