mkdir ../http
printf 'FROM test/base\nCOPY . /c/\nCOPY context /d\n' > ../http/any-name
