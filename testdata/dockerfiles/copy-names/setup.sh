touch 'a b' 'ü€😀' "$(printf 'new\nline')" -- '-dash' 'back\slash' 'star*' '...' 'trailing.' 'quo"ted' "it's" 'a:b,c=d' '$dollar' '#hash'
mkdir -p very/long/$(printf '%0200d' 1)/$(printf '%0200d' 2)
echo deep > very/long/$(printf '%0200d' 1)/$(printf '%0200d' 2)/file
