chmod 711 .
