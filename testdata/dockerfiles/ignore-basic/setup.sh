mkdir -p dir sub/inner trailing/slash deeper
touch a.log dir/b.log rooted dir/rooted dir/ignored dir/kept spaced.txt sub/inner/x dotted trailing/slash/y trailing/z
touch ..ignored a.c b.c c.c xx yx deeper/xx '#not-a-comment' Dockerfile .hidden
