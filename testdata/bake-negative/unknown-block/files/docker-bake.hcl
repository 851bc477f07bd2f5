targt "default" {
}
