mkdir d
echo f > d/f
ln d/f d/h
ln -s f d/l
chmod 4711 d/f
