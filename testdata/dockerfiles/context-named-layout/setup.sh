cp -r "$BASE/layout" ../layout
sed -i 's|"org.opencontainers.image.ref.name":"test/rich:latest"|"org.opencontainers.image.ref.name":"rich"|' ../layout/index.json
