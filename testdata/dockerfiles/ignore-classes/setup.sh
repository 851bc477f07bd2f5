for f in a.txt d.txt a.md ab.md file1 file12 x.log y.log 'a*b' axb été ete; do echo $f > "$f"; done
