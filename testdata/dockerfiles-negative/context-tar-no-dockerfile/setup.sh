mkdir ../http
echo f > f
tar -cf ../http/context.tar f
