FROM test/base
COPY . /d/
