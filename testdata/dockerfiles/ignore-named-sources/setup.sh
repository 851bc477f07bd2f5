mkdir dir ignored-tree
touch dir/yes dir/no a.txt b.txt ignored-tree/kept ignored-tree/dropped
