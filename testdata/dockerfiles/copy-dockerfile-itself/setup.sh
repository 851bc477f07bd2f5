cp ../Dockerfile .
echo '*.log' > .dockerignore
echo x > x.log
